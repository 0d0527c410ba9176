# %% [markdown]
# # Language: which one is it, from a few words?
#
# After this lesson you can infer the language of a text from the gradient of a language model,
# follow texts that change their language, and adapt to a language that is new.
#
# Five languages share twelve syllables. Each is a Markov chain drawn at random, so that which
# language a text is in has an exact answer, word by word. A network is conditioned on the language
# while it learns; later the language is not given, and is inferred.

# %%
import os

import torch
from matplotlib.figure import Figure

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The languages

# %%
K = 5
SYLLABLES = ["ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "ti"]
MARKS = 2  # ids of the network that stand for no word: unknown, and the end of a line
languages = gbi.data.BigramLanguages.draw(K, len(SYLLABLES), generator=draw)
for k in range(K):
    text = languages.sample(1, 16, draw, torch.tensor([k])).tokens[0]
    print(f"language {k}:", *(SYLLABLES[word] for word in text))

# %% [markdown]
# ## A network conditioned on the language: the weight update
# An LSTM reads the words; each language has an output layer of its own, mixed by the task
# (`conditioning="affine"`), and a linear term for the frequency of each word (`inout`). Beside it
# the same LSTM without a task. The floor is the entropy of the languages themselves.


# %%
def texts(count, length, generator):
    tokens, of = languages.sample(count, length, generator)
    return tokens, of, tokens + MARKS


def train(network):
    order = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    updates = 40 if FAST else 500
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda done: min(1.0, 2 * (1 - done / updates))
    )
    for _ in range(updates):
        _, of, words = texts(30, 50, order)
        z = torch.nn.functional.one_hot(of, K).float().unsqueeze(1)
        task = () if network.num_tasks is None else (z,)
        loss = gbi.clamped_loss(network, words, *task)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.requires_grad_(False).eval()


size = {"embedding_size": 16, "hidden_size": 64}
weights = torch.Generator().manual_seed(0)
conditioned = train(
    gbi.models.LanguageLSTM(
        len(SYLLABLES) + MARKS,
        K,
        inout=True,
        conditioning="affine",
        generator=weights,
        **size,
    )
)
unconditioned = train(
    gbi.models.LanguageLSTM(len(SYLLABLES) + MARKS, None, generator=weights, **size)
)

tokens, of, words = texts(200 if FAST else 1000, 50, draw)
true = torch.nn.functional.one_hot(of, K).float().unsqueeze(1)
floor = -languages.log_likelihood(tokens)[torch.arange(len(of)), :, of].mean()
print(f"conditioned   {-conditioned.log_prob(words, true).mean():.3f} nats per word")
print(f"unconditioned {-unconditioned.log_prob(words).mean():.3f}")
print(f"floor         {floor:.3f}")

# %% [markdown]
# ## Which language, after n words?
# Four answers: the exact posterior, from the chains themselves; enumeration of the network, five
# forward passes; one gradient step; and one step calibrated to enumeration on other texts. One
# calibration serves all lengths, since its offsets grow with the number of words.

# %%
LENGTHS = (1, 2, 5, 10, 20, 50)
_, _, other = texts(200 if FAST else 500, 50, draw)
steps = [gbi.OneStepGradient()(conditioned, other[:, :n]) for n in LENGTHS]
calibration = gbi.calibrate(
    steps, [gbi.Enumeration(check=False)(conditioned, other[:, :n]) for n in LENGTHS]
)
ways = {
    "enumeration": gbi.Enumeration(check=False),
    "one step": gbi.OneStepGradient(),
    "one step, calibrated": gbi.OneStepGradient(calibration=calibration),
}
exact = languages.log_posterior(tokens)
accuracies, distance = {}, {}
for name, infer in ways.items():
    found = [
        infer(conditioned, words[:, :n]).logits().squeeze(1).double() for n in LENGTHS
    ]
    found = [log_probs.log_softmax(-1) for log_probs in found]
    accuracies[name] = [gbi.metrics.accuracy(q, of) for q in found]
    distance[name] = [
        gbi.metrics.agreement(exact[:, n - 1], q).kl
        for n, q in zip(LENGTHS, found, strict=True)
    ]
accuracies["exact posterior"] = [
    gbi.metrics.accuracy(exact[:, n - 1], of) for n in LENGTHS
]
print("words read".ljust(36), *(f"{n:5}" for n in LENGTHS))
for name, values in accuracies.items():
    print(f"accuracy, {name}".ljust(36), *(f"{value:.3f}" for value in values))
for name, values in distance.items():
    print(f"KL(exact || {name})".ljust(36), *(f"{value:.3f}" for value in values))

# %% [markdown]
# Accuracy (left) and divergence from the exact posterior (right), by the number of words read:

# %%
figure = Figure(figsize=(11, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
options = {
    "x": LENGTHS,
    "xlabel": "words read",
    "styles": {"exact posterior": gbi.plots.Style("0.7", width=4.0)},
}
gbi.plots.curves({n: [v] for n, v in accuracies.items()}, left, **options)
gbi.plots.curves({n: [v] for n, v in distance.items()}, right, **options)
left.set_ylabel("accuracy")
right.set_ylabel("KL from the exact posterior (nats)")
for ax in (left, right):
    ax.set_xscale("log")
    ax.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
    ax.minorticks_off()
figure

# %% [markdown]
# One step is a little further from the exact posterior than enumeration of the same network is.
# Calibrated, it is almost as near, at the cost of one forward and one backward pass.

# %% [markdown]
# ## Read a text whose language changes
# Now the language changes within the text, on average every 25 words. `stepwise` cuts the network
# between its words, so that each word has a likelihood of its own; the Bayes filter puts these
# together under a chain that seldom leaves its task. *Filtered* is what is known while reading,
# *smoothed* in hindsight. Dark is probable; the line marks the true language.

# %%
HAZARD = 1 / 25
stream, spoken = languages.sample_switching(1, 200, HAZARD, draw)
cut = gbi.stepwise(conditioned, other)
one_word = gbi.calibrate(gbi.OneStepGradient()(cut), gbi.Enumeration()(cut))
chain = gbi.TaskChain.sticky(K, HAZARD)
truth = chain.posterior(languages.log_likelihood(stream))
figure = Figure(figsize=(11, 6.5), layout="constrained")
axes = iter(figure.subplots(4, 1, sharex=True))
for output in ("filtered", "smoothed"):
    step = gbi.OneStepGradient(calibration=one_word)
    reader = gbi.BayesFilter(step, chain, output)
    read = reader(gbi.stepwise(conditioned, stream + MARKS)).logits()
    read, best = read.double().log_softmax(-1), getattr(truth, f"log_{output}")
    for name, log_probs in (("one step", read), ("exact", best)):
        right = gbi.metrics.accuracy(log_probs[0], spoken[0])
        title = f"{output}, {name}: accuracy {right:.2f}"
        probs = log_probs[0].exp()
        ax = gbi.plots.task_heatmap(
            probs, spoken[0], next(axes), title=title, xlabel=""
        )
        ax.set_ylabel("language")
    print(
        f"{output}: KL(exact || one step) "
        f"{gbi.metrics.agreement(best, read).kl:.3f} nats per word"
    )
ax.set_xlabel("word")
figure

# %% [markdown]
# ## A language it never saw
# A sixth language takes each word by the rules of language 1 or of language 4, at random. The
# weights stay; only the task moves, along the gradient of a short text. How good each Z is is
# measured on other texts of that language.

# %%
creole = gbi.data.BigramLanguages(
    (languages.initial[[1, 4]].mean(0)).expand(2, -1),
    (languages.transition[[1, 4]].mean(0)).expand(2, -1, -1),
)
test = creole.sample(100 if FAST else 400, 50, draw).tokens
creole_floor = -creole.log_likelihood(test)[..., 0].mean()


def loss(z):
    return -conditioned.log_prob(test + MARKS, z.expand(len(test), 1, -1)).mean().item()


print(
    f"maximum entropy {loss(conditioned.uniform(1)):.3f} nats per word, "
    f"floor {creole_floor:.3f}"
)
for n in (20, 100, 500):
    sample = creole.sample(1, n, draw).tokens + MARKS
    known = gbi.Enumeration(check=False)(conditioned, sample).logits().argmax(-1)
    corner = torch.nn.functional.one_hot(known, K).float()
    ascent = gbi.IterativeGradient(30, rate=0.1, optim="adam")(conditioned, sample)
    print(
        f"{n:3} words: best known language {loss(corner):.3f}, Z on the simplex "
        f"{loss(ascent.point()):.3f}, at",
        ascent.point().flatten().numpy().round(2),
    )

# %% [markdown]
# Neither language alone is enough: each is worse than maximum entropy. A point between the two is
# found from few words.
#
# **Next:** [Comparing models](comparing_models.ipynb) asks whether a task is there at all. The
# language study, with real corpora and more baselines, is under *Results*.
