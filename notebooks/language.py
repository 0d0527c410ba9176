# %% [markdown]
# # Language: which one is it, from a few words?
#
# Five languages over the same twelve syllables. Each is a Markov chain drawn at random, so that
# which language a text is in has an exact answer, word by word. A network is told the language of
# each text while it learns; later it is not told, and its gradient has to say.

# %%
import os

import torch
from matplotlib.figure import Figure

from gbi_pyro import (
    BayesFilter,
    Enumeration,
    IterativeGradient,
    OneStepGradient,
    TaskChain,
    calibrate,
    clamped_loss,
    hmm_posterior,
    plots,
    stepwise,
)
from gbi_pyro.data.bigram import BigramLanguages
from gbi_pyro.metrics.agreement import agreement
from gbi_pyro.metrics.scores import accuracy
from gbi_pyro.models.language import LanguageLSTM

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
languages = BigramLanguages.draw(K, len(SYLLABLES), generator=draw)
for k in range(K):
    text = languages.sample(1, 16, draw, torch.tensor([k])).tokens[0]
    print(f"language {k}:", *(SYLLABLES[word] for word in text))

# %% [markdown]
# ## A network that is told the language: the weight update
# An LSTM reads the words; each language has a head of its own, mixed by the task
# (`conditioning="affine"`), and a linear term for the words it likes (`inout`). Beside it the same
# LSTM, told nothing. The floor is the entropy of the languages themselves.


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
        told = () if network.num_tasks is None else (z,)
        loss = clamped_loss(network, words, *told)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.requires_grad_(False).eval()


size = {"embedding_size": 16, "hidden_size": 64}
weights = torch.Generator().manual_seed(0)
told = train(
    LanguageLSTM(
        len(SYLLABLES) + MARKS,
        K,
        inout=True,
        conditioning="affine",
        generator=weights,
        **size,
    )
)
plain = train(LanguageLSTM(len(SYLLABLES) + MARKS, None, generator=weights, **size))

tokens, of, words = texts(200 if FAST else 1000, 50, draw)
true = torch.nn.functional.one_hot(of, K).float().unsqueeze(1)
floor = -languages.log_likelihood(tokens)[torch.arange(len(of)), :, of].mean()
print(f"told the language {-told.log_prob(words, true).mean():.3f} nats per word")
print(f"told nothing      {-plain.log_prob(words).mean():.3f}")
print(f"floor             {floor:.3f}")

# %% [markdown]
# ## Name the language after n words
# Four answers: the exact posterior, from the chains themselves; enumeration of the network, five
# forward passes; one gradient step; and one step calibrated to enumeration on other texts. One
# calibration serves all lengths, since its offsets grow with the number of words.

# %%
LENGTHS = (1, 2, 5, 10, 20, 50)
_, _, other = texts(200 if FAST else 500, 50, draw)
steps = [OneStepGradient()(told, other[:, :n]) for n in LENGTHS]
calibration = calibrate(
    steps, [Enumeration(check=False)(told, other[:, :n]) for n in LENGTHS]
)
ways = {
    "enumeration": Enumeration(check=False),
    "one step": OneStepGradient(),
    "one step, calibrated": OneStepGradient(calibration=calibration),
}
exact = languages.log_posterior(tokens)
named = {"exact posterior": [accuracy(exact[:, n - 1], of) for n in LENGTHS]}
distance = {}
for name, infer in ways.items():
    found = [infer(told, words[:, :n]).logits().squeeze(1).double() for n in LENGTHS]
    found = [log_probs.log_softmax(-1) for log_probs in found]
    named[name] = [accuracy(q, of) for q in found]
    distance[name] = [
        agreement(exact[:, n - 1], q).kl for n, q in zip(LENGTHS, found, strict=True)
    ]
for name, values in named.items():
    print(f"{name:22} names", *(f"{100 * value:3.0f} %" for value in values))
for name, values in distance.items():
    print(f"KL(exact || {name})".ljust(36), *(f"{value:.3f}" for value in values))

# %%
figure = Figure(figsize=(11, 3.6), layout="constrained")
for ax, curves, ylabel in zip(
    figure.subplots(1, 2),
    (named, distance),
    ("share of texts named", "KL from the exact posterior (nats)"),
    strict=True,
):
    shown = {name: [values] for name, values in curves.items()}
    plots.curves(shown, ax, x=LENGTHS, xlabel="words read", ylabel=ylabel)
    ax.set_xscale("log")
    ax.set_xticks(LENGTHS, [str(n) for n in LENGTHS])
    ax.minorticks_off()
figure

# %% [markdown]
# ## Read a text whose language changes
# Now the language changes within the text, on average every 25 words. `stepwise` cuts the network
# between its words, so that each word's evidence is its own; the Bayes filter puts it together
# under a chain that seldom leaves its task. *Filtered* is what is known while reading, *smoothed*
# in hindsight.

# %%
HAZARD = 1 / 25
stream, spoken = languages.sample_switching(1, 200, HAZARD, draw)
cut = stepwise(told, other)
one_word = calibrate(OneStepGradient()(cut), Enumeration()(cut))
sticky = TaskChain.sticky(K, HAZARD)
chain = sticky.log_initial, sticky.log_transition
truth = hmm_posterior(*(c.double() for c in chain), languages.log_likelihood(stream))
figure = Figure(figsize=(11, 6.5), layout="constrained")
axes = iter(figure.subplots(4, 1, sharex=True))
for give in ("filtered", "smoothed"):
    reader = BayesFilter(OneStepGradient(calibration=one_word), *chain, output=give)
    read = reader(stepwise(told, stream + MARKS)).logits().double().log_softmax(-1)
    best = getattr(truth, f"log_{give}")
    for name, log_probs in (("one step", read), ("exact", best)):
        right = accuracy(log_probs[0], spoken[0])
        ax = plots.task_heatmap(
            log_probs[0].exp().numpy(), spoken[0].numpy(), next(axes)
        )
        ax.set_title(
            f"{give}, {name}: {100 * right:.0f} % of the words", loc="left", fontsize=9
        )
        ax.set(xlabel="", ylabel="language")
    print(f"{give}: KL(exact || one step) {agreement(best, read).kl:.3f} nats per word")
ax.set_xlabel("word")
figure

# %% [markdown]
# ## A language it never saw
# A sixth language takes each word by the rules of language 1 or of language 4, by the toss of a
# coin. The weights stay; only the task moves, along the gradient of a short text. What each Z is
# worth is measured on other texts of that language.

# %%
creole = BigramLanguages(
    (languages.initial[[1, 4]].mean(0)).expand(2, -1),
    (languages.transition[[1, 4]].mean(0)).expand(2, -1, -1),
)
test = creole.sample(100 if FAST else 400, 50, draw).tokens
creole_floor = -creole.log_likelihood(test)[..., 0].mean()


def loss(z):
    return -told.log_prob(test + MARKS, z.expand(len(test), 1, -1)).mean().item()


print(
    f"maximum entropy {loss(told.uniform(1)):.3f} nats per word, "
    f"floor {creole_floor:.3f}"
)
for n in (20, 100, 500):
    sample = creole.sample(1, n, draw).tokens + MARKS
    known = Enumeration(check=False)(told, sample).logits().argmax(-1)
    corner = torch.nn.functional.one_hot(known, K).float()
    ascent = IterativeGradient(30, rate=0.1, optim="adam")(told, sample)
    print(
        f"{n:3} words: best known language {loss(corner):.3f}, Z on the simplex "
        f"{loss(ascent.point()):.3f}, at",
        ascent.point().flatten().numpy().round(2),
    )

# %% [markdown]
# Neither language alone will do, and is worse than maximum entropy; a point between the two is
# found from few words.
#
# On real corpora, with the same questions and more rivals: `gbi-pyro language --corpora FOLDER`.
