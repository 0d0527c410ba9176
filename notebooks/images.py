# %% [markdown]
# # Images: which digit, how sure, and is it a digit at all?
#
# After this lesson you can classify images by the gradient of a network that was never trained to
# classify, calibrate its answers, and detect images that belong to no class.
#
# The task of an image is its class. A network learns to reconstruct images *given their class*.
# Which class a new image has is then read from the network's gradient, in one pass.
#
# The digits come with scikit-learn: 1797 images of 8 x 8 pixels.

# %%
import os

import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
EPOCHS = 5 if FAST else 60
BATCH = 64

digits = gbi.data.load_images("digits")
for name in ("train", "validation", "test"):
    print(name, tuple(getattr(digits, name).x.shape))

# %% [markdown]
# ## Two networks conditioned on the class
# Both squeeze the image through a bottleneck, which leaves something for the class to say.
#
# - The paper's network puts the task beside the latent and decodes both: `[h, z] -> ... -> x`.
# - The affine head computes one code for each class and mixes them: `m(z) = sum_k z_k m_k`. It is
#   affine in the task *after all else*.
#
# They are trained with the class given (`clamped_loss`), on how well they reconstruct the image.


# %%
def train(network, images):
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.002)
    updates = len(images.x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.002, total_steps=EPOCHS * updates, pct_start=0.2
    )
    for _ in range(EPOCHS):
        order = torch.randperm(len(images.x), generator=draw)
        for batch in order.split(BATCH)[:updates]:
            z = torch.nn.functional.one_hot(images.y[batch], network.num_tasks).float()
            loss = gbi.clamped_loss(network, images.x[batch], z, generator=draw)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.requires_grad_(False).eval()


def affine_head(images, classes):
    network = gbi.models.AffineHeadAutoencoder(
        gbi.models.pca_basis(images.x, 32),
        classes,
        latent_size=64,
        hidden_size=256,
        generator=torch.Generator().manual_seed(0),
    )
    return train(network, images)


paper = gbi.models.ConditionedAutoencoder(
    (1, 8, 8), 10, latent_size=6, generator=torch.Generator().manual_seed(0)
)
paper = train(paper, digits.train)
affine = affine_head(digits.train, 10)

# %% [markdown]
# ## What the task does
# Six test digits (first column), each reconstructed as every class. The latent keeps the slant and
# the stroke; the task changes the digit.

# %%
some = digits.test.x[:6]
as_class = torch.eye(10).unsqueeze(1).expand(-1, len(some), -1)  # (class, image, K)
reconstructed = affine.generate(as_class, some)
columns = torch.cat([some.unsqueeze(0), reconstructed]).transpose(0, 1)
gbi.plots.image_grid(columns, ["image", *digits.class_names])

# %% [markdown]
# ## Classification
# One step costs one forward and one backward pass. Enumeration tries all ten classes.

# %%
x, y = digits.test
for name, network in (("paper's network", paper), ("affine head", affine)):
    exact = gbi.Enumeration(check=False)(network, x)  # no image influences another here
    for infer in (None, gbi.OneStepGradient(), gbi.OneStepGradient(order=2)):
        posterior = exact if infer is None else infer(network, x)
        passes = f"{posterior.passes.forward} + {posterior.passes.backward} passes"
        accuracy = gbi.metrics.summarise(posterior.logits(), y).accuracy
        kl = gbi.metrics.agreement(exact, posterior).kl
        print(
            f"{name:15}  {posterior.method:22}  {passes:14}  accuracy {accuracy:.3f}, "
            f"KL from enumeration {kl:.3f} nats"
        )

# %% [markdown]
# With the paper's network one step is a linearisation: good, and not exact. With the affine head
# the second-order step *is* the exact posterior. All that one step misses there is the spread
# within the mixture; adding it to the model (`affine.exact`) makes the plain step exact, in one
# pass:

# %%
spread_added = gbi.OneStepGradient()(affine.exact, x)
enumerated = gbi.Enumeration(check=False)(affine, x)
print(
    spread_added.passes,
    f"KL {gbi.metrics.agreement(enumerated, spread_added).kl:.6f} nats",
)

# %% [markdown]
# ## How sure is it?
# A likelihood of many pixels is surer than it should be: given the class, pixels are not
# independent. One temperature, fitted to the labels of *validation* images, corrects that; the test
# images judge.

# %%
exact_one_step = gbi.OneStepGradient()(affine.exact, digits.validation.x)
linearised = gbi.OneStepGradient()(paper, digits.validation.x)
raw = {
    "paper's network, one step": gbi.OneStepGradient()(paper, x).logits(),
    "affine head, exact": spread_added.logits(),
}
tempered = {}
for (name, log_probs), fit in zip(
    raw.items(), (linearised, exact_one_step), strict=True
):
    temperature = gbi.metrics.fit_temperature(
        fit.logits(), digits.validation.y, default=1.0
    )
    tempered[name] = gbi.metrics.temper(log_probs, temperature)
    print(f"{name}: temperature {temperature:.1f}")
    for how, shown in (("uncalibrated", log_probs), ("tempered", tempered[name])):
        found = gbi.metrics.summarise(shown, y)
        print(
            f"  {how}: accuracy {found.accuracy:.3f}, "
            f"-log p(label) {found.log_score:.3f} nats, Brier {found.brier:.3f}, "
            f"ECE {found.expected_calibration_error:.3f}"
        )

# %% [markdown]
# The log score, which punishes being sure and wrong, gains most. An expected calibration error
# (ECE) of 360 images is positive by chance alone, by .01 or so: where hardly an answer is wrong it
# says little.
#
# Confidence against accuracy of the paper's network, in up to five bins of equally many images,
# with 95 % intervals (answers that are equally sure stay in one bin: untempered, all are):

# %%
tables = {
    how: gbi.metrics.reliability_table(
        logits["paper's network, one step"], y, 5, "mass"
    )
    for how, logits in {"uncalibrated": raw, "tempered": tempered}.items()
}
gbi.plots.reliability(tables).figure

# %% [markdown]
# The images that the exact posterior, tempered, is least sure of: its two best answers, and the
# label in brackets.

# %%
answers = tempered["affine head, exact"]
doubtful = torch.special.entr(answers.exp()).sum(-1).argsort(descending=True)[:8]
best = answers[doubtful].topk(2).indices.tolist()
titles = [f"{a} or {b}?\n({c})" for (a, b), c in zip(best, y[doubtful], strict=True)]
gbi.plots.image_grid(x[doubtful].unsqueeze(0), titles)

# %% [markdown]
# ## Out-of-distribution detection
# A second network learns without the digits 8 and 9. Does it notice that they are none of its eight
# classes? And digits turned upside down? Each score is larger the less an image fits.
#
# - *Maximum of one step*, tempered: how probable the best class is. Probabilities sum to one
#   whatever the image: an image of no class still has a most probable one.
# - *Cosine of residual and class*: what the output at maximum entropy leaves unexplained, against
#   what each class would change. Where no class points towards the image, it is of no class.
# - *PCA residual*: what principal components leave over, without any network: a baseline.

# %%
seen = digits.train.y < 8
eight = affine_head(gbi.data.Images(digits.train.x[seen], digits.train.y[seen]), 8)
held_out = digits.validation.y < 8
temperature = gbi.metrics.fit_temperature(
    gbi.OneStepGradient()(eight, digits.validation.x[held_out]).logits(),
    digits.validation.y[held_out],
    default=1.0,
)


def scores(x):
    log_probs = gbi.OneStepGradient()(eight, x).logits()
    middle = eight.uniform(len(x))
    return {
        "maximum of one step": gbi.metrics.ood.maximum_score(
            gbi.metrics.temper(log_probs, temperature)
        ),
        "cosine of residual and class": gbi.metrics.ood.cosine_score(
            eight.residual(x, middle), eight.task_directions(x)
        ),
        "PCA residual": gbi.metrics.ood.pca_residual_score(
            x.flatten(1), eight.mean.flatten(), eight.directions
        ),
    }


inside = scores(x[y < 8])
cases = {"digits 8 and 9": scores(x[y >= 8]), "upside down": scores(x[y < 8].flip(-2))}
for case, outside in cases.items():
    for name in inside:
        draw = torch.Generator().manual_seed(0)
        found = gbi.metrics.auroc(
            inside[name], outside[name], generator=draw, name=name
        )
        interval = f"({found.low:.3f} to {found.high:.3f})"
        print(f"{case:14}  {name:28}  AUROC {found.value:.3f} {interval}")

# %% [markdown]
# The first two scores of digits that the network knows, and of the digits 8 and 9; and how many of
# these each score detects (true positives) at each rate of false positives.

# %%
figure = Figure(figsize=(12, 3.8), layout="constrained")
first, second, third = figure.subplots(1, 3)
outside, curves = cases["digits 8 and 9"], {}
for ax, name in zip((first, second), inside, strict=False):
    gbi.plots.histograms(inside[name], outside[name], ax, xlabel=name)
for name in inside:
    both = torch.cat([inside[name], outside[name]])
    curves[name] = roc_curve(torch.arange(len(both)) >= len(inside[name]), both)[:2]
gbi.plots.roc(curves, third)
figure

# %% [markdown]
# **Next:** [Language](language.ipynb) does the same with sequences. The studies of images and of
# out-of-distribution detection, with larger data sets and more seeds, are under *Results*.
