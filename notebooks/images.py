# %% [markdown]
# # Images: which digit, how sure, and is it a digit at all?
#
# The task of an image is its class. A network learns to rebuild images *given their class*; nobody
# ever asks it to classify. Which class an image has is then asked of its gradient, in one pass.
#
# The digits come with scikit-learn (1797 images of 8 x 8 pixels): no file is read.

# %%
import os

import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from gbi_pyro import Enumeration, OneStepGradient, clamped_loss, plots
from gbi_pyro.data.images import Images, load_images
from gbi_pyro.metrics import ood
from gbi_pyro.metrics.agreement import agreement
from gbi_pyro.metrics.auroc import detection
from gbi_pyro.metrics.recalibration import fit_temperature, temper
from gbi_pyro.metrics.reliability import reliability_table
from gbi_pyro.metrics.scores import summarise
from gbi_pyro.models.affine_head import AffineHeadAutoencoder, pca_basis
from gbi_pyro.models.image import ConditionedAutoencoder

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
EPOCHS = 5 if FAST else 60
BATCH = 64

digits = load_images("digits")
print(
    *(
        f"{name} {len(getattr(digits, name).x)}"
        for name in ("train", "validation", "test")
    )
)

# %% [markdown]
# ## Two networks that are told the class
# Both squeeze the image through a bottleneck, which leaves something for the class to say.
#
# - The paper's network puts the task beside the latent and decodes both: `[h, z] -> ... -> x`.
# - The affine head computes one code for each class and mixes them: `m(z) = sum_k z_k m_k`. It is
#   affine in the task *after all else*.
#
# They are trained with the class given (`clamped_loss`), on how well they rebuild the image.


# %%
def train(network, images):
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.002)
    updates = len(images.x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 0.002, total_steps=EPOCHS * updates, pct_start=0.2
    )
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images.x), generator=draw).split(BATCH)[
            :updates
        ]:
            z = torch.nn.functional.one_hot(images.y[batch], network.num_tasks).float()
            loss = clamped_loss(network, images.x[batch], z, generator=draw)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.requires_grad_(False).eval()


def affine_head(images, classes):
    network = AffineHeadAutoencoder(
        pca_basis(images.x, 32),
        classes,
        latent_size=64,
        hidden_size=256,
        generator=torch.Generator().manual_seed(0),
    )
    return train(network, images)


paper = ConditionedAutoencoder(
    (1, 8, 8), 10, latent_size=6, generator=torch.Generator().manual_seed(0)
)
paper = train(paper, digits.train)
affine = affine_head(digits.train, 10)

# %% [markdown]
# ## What the task does
# Six test digits, rebuilt as each class. The latent keeps the slant and the stroke; the task
# changes the digit.

# %%
some = digits.test.x[:6]
as_class = torch.eye(10).unsqueeze(1).expand(-1, len(some), -1)  # (class, image, K)
rebuilt = affine.generate(as_class, some)
columns = torch.cat([some.unsqueeze(0), rebuilt]).transpose(0, 1)
plots.image_grid(columns.numpy(), ["image", *digits.class_names])

# %% [markdown]
# ## Classification
# One step costs one forward and one backward pass. Enumeration tries all ten classes.

# %%
x, y = digits.test
for name, network in (("paper's network", paper), ("affine head", affine)):
    exact = Enumeration(check=False)(
        network, x
    )  # images do not influence each other here
    for infer in (None, OneStepGradient(), OneStepGradient(order=2)):
        posterior = exact if infer is None else infer(network, x)
        passes = f"{posterior.passes.forward} + {posterior.passes.backward} passes"
        accuracy = summarise(posterior.logits(), y).accuracy
        kl = agreement(exact, posterior).kl
        print(
            f"{name:15}  {posterior.method:22}  {passes:14}  "
            f"accuracy {100 * accuracy:.1f} %, KL from enumeration {kl:.3f} nats"
        )

# %% [markdown]
# With the paper's network one step is a linearisation: good, and not exact. With the affine head
# the second-order step *is* the exact posterior. And since all that one step misses there is the
# spread within the mixture, adding it to the model makes the plain step exact, at the price of one
# pass:

# %%
spread_added = OneStepGradient()(affine.exact, x)
enumerated = Enumeration(check=False)(affine, x)
print(spread_added.passes, f"KL {agreement(enumerated, spread_added).kl:.6f} nats")

# %% [markdown]
# ## How sure is it?
# A likelihood of many pixels is surer than it should be: given the class, pixels are not
# independent. One temperature, fitted to the labels of *validation* images, mends that; the test
# images judge.

# %%
exact_one_step = OneStepGradient()(affine.exact, digits.validation.x)
linearised = OneStepGradient()(paper, digits.validation.x)
raw = {
    "paper's network, one step": OneStepGradient()(paper, x).logits(),
    "affine head, exact": spread_added.logits(),
}
tempered = {}
for (name, log_probs), fit in zip(
    raw.items(), (linearised, exact_one_step), strict=True
):
    temperature = fit_temperature(fit.logits(), digits.validation.y, default=1.0)
    tempered[name] = temper(log_probs, temperature)
    print(f"{name}: temperature {temperature:.1f}")
    for how, shown in (("as it is", log_probs), ("tempered", tempered[name])):
        found = summarise(shown, y)
        print(
            f"  {how}: accuracy {100 * found.accuracy:.1f} %, "
            f"-log p(label) {found.log_score:.3f} nats, Brier {found.brier:.3f}, "
            f"ECE {100 * found.expected_calibration_error:.1f} %"
        )

# %% [markdown]
# The log score, which punishes being sure and wrong, gains most. An ECE of 360 images is positive
# by chance alone, by a percent or so: where hardly an answer is wrong it says little.
#
# Confidence against accuracy of the paper's network, in up to five bins of equally many images,
# with 95 % intervals (answers that are equally sure stay in one bin: untempered, all are):

# %%
shown = {"as it is": raw, "tempered": tempered}
tables = {
    how: reliability_table(
        log_probs["paper's network, one step"], y, bins=5, strategy="mass"
    )._asdict()
    for how, log_probs in shown.items()
}
plots.reliability(tables).figure

# %% [markdown]
# The images that the exact posterior, tempered, is least sure of: its two best guesses, and the
# label in brackets.

# %%
answers = tempered["affine head, exact"]
doubtful = torch.special.entr(answers.exp()).sum(-1).argsort(descending=True)[:8]
guesses = answers[doubtful].topk(2).indices
titles = [
    f"{a} or {b}?\n({c})"
    for (a, b), c in zip(guesses.tolist(), y[doubtful], strict=True)
]
plots.image_grid(x[doubtful].unsqueeze(0).numpy(), titles)

# %% [markdown]
# ## Is it of a known kind at all?
# A second network learns without the digits 8 and 9. Can it tell that they are none of its eight
# classes? And digits turned upside down?
#
# - *Maximum of one step*, tempered: how probable the best class is. Probabilities sum to one
#   whatever the image: one of no class has to be given to some.
# - *Cosine of residual and class*: what the output at maximum entropy leaves unexplained, against
#   what each class would change. Where no class points towards the image, it is of no class.
# - *PCA residual*: what principal components leave over, without any network: a control.

# %%
seen = digits.train.y < 8
known = Images(digits.train.x[seen], digits.train.y[seen])
eight = affine_head(known, 8)
held_out = digits.validation.y < 8
temperature = fit_temperature(
    OneStepGradient()(eight, digits.validation.x[held_out]).logits(),
    digits.validation.y[held_out],
    default=1.0,
)


def scores(x):
    log_probs = OneStepGradient()(eight, x).logits()
    middle = eight.uniform(len(x))
    return {
        "maximum of one step": ood.maximum_score(temper(log_probs, temperature)),
        "cosine of residual and class": ood.cosine_score(
            eight.residual(x, middle), eight.task_directions(x)
        ),
        "PCA residual": ood.pca_residual_score(
            x.flatten(1), eight.mean.flatten(), eight.directions
        ),
    }


inside = scores(x[y < 8])
unknown = {
    "digits 8 and 9": scores(x[y >= 8]),
    "upside down": scores(x[y < 8].flip(-2)),
}
for case, outside in unknown.items():
    for name in inside:
        draw = torch.Generator().manual_seed(0)
        found = detection(inside[name], outside[name], generator=draw, name=name)
        print(
            f"{case:14}  {name:28}  AUROC {found.auroc:.3f} "
            f"({found.auroc_low:.3f} to {found.auroc_high:.3f})"
        )

# %%
figure = Figure(figsize=(12, 3.8), layout="constrained")
axes = figure.subplots(1, 3)
outside = unknown["digits 8 and 9"]
for ax, name in zip(
    axes, ("maximum of one step", "cosine of residual and class"), strict=False
):
    plots.histograms(inside[name].numpy(), outside[name].numpy(), ax, xlabel=name)
curves = {}
for name in inside:
    both = torch.cat([inside[name], outside[name]])
    is_unknown = torch.arange(len(both)) >= len(inside[name])
    curves[name] = roc_curve(is_unknown.numpy(), both.numpy())[:2]
plots.roc(curves, axes[2])
figure

# %% [markdown]
# On larger image sets, with more scores, both directions and seeds: `gbi-pyro images`,
# `gbi-pyro ood`.
