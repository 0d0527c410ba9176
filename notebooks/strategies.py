# %% [markdown]
# # Strategies: hidden states in the choices of a rat
#
# After this lesson you can fit hidden strategies to sessions of choices, decide how many there are
# on sessions that the model has not seen, look at them along a session and over days, and check
# what the model says. Nothing of Pyro or PyTorch is taken for granted.

# %%
import math
import os

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
pyro.set_rng_seed(0)

# %% [markdown]
# ## The file
# A rat hears two tones, one after the other, and says by a poke to the left or to the right which
# was louder. The file (in `notebooks/data`, where its source and licence are given too) has a row
# for each of 20,000 trials, in 80 sessions: Akrami et al. 2018, as published with psytrack (Roy et
# al. 2021). Take a table of your own instead: it needs a column that names the session.

# %%
trials = pd.read_csv("data/rat_w053.csv.gz")
trials["right"] = trials.choice == 2
trials["bias"] = 1.0
print(trials[["session", "s1", "s2", "right", "correct"]].head(4).to_string())
print(f"{trials.correct.mean():.0%} correct, {trials.right.mean():.0%} to the right")

# %% [markdown]
# `Sessions` turns the table into tensors with a row for each session and a column for each trial.
# Sessions differ in length, so there are columns that no trial fills; `mask` says which are real.
# A choice may depend on the two tones and on the trial before: its mean tone, what the rat chose,
# and what would have been right. Every fourth session is put aside for later.

# %%
DEPENDS_ON = [
    "bias",
    "s1",
    "s2",
    "s_avg_previous",
    "choice_previous",
    "answer_previous",
]
sessions = gbi.Sessions.from_frame(
    trials,
    by="session",
    columns={"u": DEPENDS_ON, "right": "right", "correct": "correct"},
    dtype=torch.float64,
)
if FAST:
    sessions = sessions.select(slice(20))
held_out = torch.arange(len(sessions)) % 4 == 3
training, new = sessions.select(~held_out), sessions.select(held_out)
print(training)
print(f"{training.num_steps} trials to fit, {new.num_steps} to judge on")

# %% [markdown]
# ## The model
# The rat has K states, its strategies. In state k the log odds of a choice to the right are a
# weighted sum, $w_k \cdot u$: a logistic regression for each state. `pyro.sample` names what is
# random: the weights, with a weak prior around zero; the state of each trial; and the choice, which
# is data (`obs`). `plate` says that there are sessions, and trials in them. The state is marked as
# the *task* of this library, which will sum over it.


# %%
def model(u, right, mask, K):
    weak = dist.Normal(torch.zeros(K, len(DEPENDS_ON), dtype=u.dtype), 5.0)
    w = pyro.sample("w", weak.to_event(2))
    log_odds = u @ w.mT
    with pyro.plate("session", len(u), dim=-2), pyro.plate("trial", u.shape[1], dim=-1):
        one_of_k = dist.OneHotCategorical(torch.ones(K))
        z = pyro.sample("state", one_of_k, infer={"task": True})
        with pyro.poutine.mask(mask=mask):
            choice = dist.Bernoulli(logits=(z * log_odds).sum(-1))
            pyro.sample("right", choice, obs=right)


def data(part):
    return part["u"], part["right"], part.mask


# %% [markdown]
# ## Fit
# States last: from one trial to the next they change as a Markov chain does, whose start and
# transition probabilities are learned (`LearnedChain`). `marginalize` sums over every path that the
# states may take, exactly, and `fit_marginal` finds the weights and the chain that make the choices
# most probable. It begins at several places, since it may end in different ones, and keeps the
# best.
#
# ## How many states?
# More states always fit better. Whether they *predict* better is asked of the sessions put aside:
# how probable was each choice, given the trials before it in its session? One state is an ordinary
# regression. A bit is what the answer to one fair yes-or-no question tells.


# %%
def fit(K):
    pyro.clear_param_store()
    chain = gbi.LearnedChain(K, stay=0.95, time="trial")
    marginal = gbi.marginalize(lambda *args: model(*args, K), chain)
    return gbi.fit_marginal(
        marginal,
        *data(training),
        starts=1 if K == 1 else 2 if FAST else 6,
        draw_start=lambda draw: {
            "w": torch.randn(K, len(DEPENDS_ON), generator=draw, dtype=torch.float64)
        },
        num_observations=training.num_steps,
        tolerance=1e-3 if FAST else 1e-4,
    )


fits, score = {}, {}
for K in (1, 2) if FAST else (1, 2, 3, 4):
    fits[K] = fit(K)
    score[K] = fits[K].infer(*data(new)).log_evidence / math.log(2)  # of each session
    gain = (score[K] - score[1]).sum() / new.num_steps
    better = int((score[K] > score[1]).sum())
    print(
        f"{K} state(s): {gain:+.3f} bits a trial over one state, better in {better} of "
        f"{len(new)} sessions; starts ended at {fits[K].objectives.numpy().round(0)}"
    )

# %% [markdown]
# Starts do end in different places: with one alone you might conclude that states are worth
# little. The gain per trial is small, as gains in choice probability are, but it adds up over a
# session. The large steps are those from one state to two and to three; we go on with three.
# (Where sessions are too few to put some aside, `gbi.learning.compare_num_tasks` leaves out some
# after the other.)
#
# ## What are the states?
# Their numbers mean nothing until a rule orders them. Here the first state is the one in which the
# two tones count most, $w_{s1} - w_{s2}$. Weights have standard errors, from the curvature of the
# likelihood.

# %%
K = 2 if FAST else 3
best = fits[K]
order = gbi.learning.order_tasks(
    best.estimates["w"][:, 1] - best.estimates["w"][:, 2], descending=True
)
names = [f"state {k + 1}" for k in range(K)]
w = best.estimates["w"][order]
errors = best.standard_errors()["w"][order]
table = pd.DataFrame(w.numpy().round(2), names, DEPENDS_ON).astype(str)
print((table + " ± " + errors.numpy().round(2).astype(str)).T.to_string())

# %% [markdown]
# ## When are they on?
# `infer` gives the probability of each state in each trial, here of all sessions, those put aside
# included. Seen over days (each column is a session) and in one session (each column is a trial):

# %%
states = best.infer(*data(sessions)).reordered(order)
probs = states.probs() * sessions.mask.unsqueeze(-1)
by_day = probs.sum(1) / sessions.lengths.unsqueeze(-1)
shown = by_day.min(-1).values.argmax()  # the session that shows most of all states
T = sessions.lengths[shown]
figure = Figure(figsize=(8, 5.4), layout="constrained")
top, bottom = figure.subplots(2, 1)
gbi.plots.session(by_day, top, names=names, xlabel="session", title="share of trials")
gbi.plots.session(
    probs[shown, :T],
    bottom,
    names=names,
    xlabel="trial",
    marks={"error": sessions["correct"][shown, :T] == 0},
    title=f"session {shown}",
)
figure

# %%
correct = (probs * sessions["correct"].unsqueeze(-1)).sum((0, 1)) / probs.sum((0, 1))
for name, share, right in zip(names, probs.sum((0, 1)), correct, strict=True):
    print(f"{name}: {share / sessions.num_steps:.0%} of trials, {right:.0%} correct")

# %% [markdown]
# Back into the table, row by row, to go on with it in whatever you use:

# %%
with_states = states.to_dataframe(sessions=sessions, names=names)
print(with_states.head(4).round(3).to_string())

# %% [markdown]
# ## Is the model right?
# A chain says that a state ends at every trial with the same probability. Paths drawn given the
# choices are compared with paths that the chain draws by itself: how often do states change, how
# much of the time is each of them on, how long does it last?

# %%
padding, draws = ~sessions.mask, 20 if FAST else 200
paths = states.sample_paths(draws)
check = gbi.metrics.predictive_check(
    lambda z: gbi.metrics.path_statistics(z, K, padding, names=names),
    paths,
    states.sample_prior(draws),
)
print(check)

# %%
blocks = gbi.metrics.dwell_times(paths, padding)
lasting = {}
for k, name in enumerate(names):
    of_state = blocks.of(k)
    weights = torch.full_like(of_state.length, 1.0 / draws, dtype=torch.float64)
    lasting[name] = gbi.metrics.kaplan_meier(
        of_state.length, of_state.censored, weights
    )
law = gbi.metrics.dwell_law(states.chain, 300)
axes = gbi.plots.dwell_times(lasting, dict(zip(names, law, strict=True)))
axes[0].figure

# %% [markdown]
# A tail probability near zero would be a way in which the paths differ from what the chain makes;
# here none is. But the chain was fitted to just that. Ask for something else: are choices alike,
# after what the regression of one state explains, from trial to trial? Choices that the model draws
# have to show the same.

# %%
explained = (sessions["u"] @ fits[1].estimates["w"][0]).sigmoid()
by_state = (sessions["u"] @ w.mT).sigmoid().expand(draws, -1, -1, -1)
along = states.sample_prior(draws).unsqueeze(-1)
drawn = torch.bernoulli(by_state.gather(-1, along).squeeze(-1))
likeness = [
    gbi.metrics.autocorrelation(right - explained, 10 if FAST else 40, padding)
    for right in (sessions["right"], *drawn)
]
gbi.plots.autocorrelation(
    likeness[0], torch.stack(likeness[1:]), xlabel="trials apart"
).figure

# %% [markdown]
# Most of it they do, which one state could not: without states there is nothing to carry over. Two
# things they do not. Choices two trials apart are more alike than the model's, and choices far
# apart in a session are, too: each session has a leaning of its own.

# %% [markdown]
# ## What it means, and what it does not
# - The rat does not weigh the tones in one way all the time: on sessions that were not fitted,
#   states predict its next choice better than one regression. In the first weeks it goes to and
#   fro, within a few trials, between a state that weighs the tones strongly and one that hardly
#   hears them and follows what was right the trial before. Later a third state takes over, which
#   weighs the tones moderately and lasts for dozens of trials.
# - The order of the states was our choice, and "strategy" is our word. A state that lasts two or
#   three trials is as much a mixture of two ways to answer as a state of mind.
# - Which state was on in a trial is uncertain, and the probabilities say so: take them along (as
#   weights, or draw paths) where you relate states to other data, such as recordings.
# - Held-out sessions tell how well a model predicts, not how many states there are in the animal.
#   Where starts end in different places, give more of them before you say that another state is
#   worth nothing (`starts`; 20 without it).
# - States need not be the best predictor. `python -m studies sequences` sets them beside
#   transitions that rewards drive, a small network in each state and a recurrent network, with
#   intervals over sessions: here the recurrent network predicts best. What states give is
#   something to look at.
#
# **Next:** [Your data](your_data.ipynb) takes a network for the choices and an optimiser of your
# own. [Comparing models](comparing_models.ipynb) says when a difference is one. [Can I trust
# it?](can_i_trust_it.ipynb) checks posteriors.
