# %% [markdown]
# # Comparing models: is there a task, how many, and does it help to be told?
#
# Three criteria, all in nats, all with the tasks *summed out*: a model that is scored with its
# tasks known is scored on an easier problem.
#
# | | what it asks | what it needs |
# |---|---|---|
# | log evidence | how probable the data were before they came | a prior, and an integral over it |
# | prequential code | what each step cost before it was learned | a learner; no held-out data |
# | leave-one-out | how well each trial is told from all others | draws of what was learned |

# %%
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import arviz as az
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

from gbi_pyro import plots
from gbi_pyro.data.switching import GeometricBlocks, SwitchingStream
from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.metrics.comparison import Score, compare_models, leave_one_out
from gbi_pyro.metrics.prequential import SwitchingMeans, prequential_code
from gbi_pyro.metrics.runs import compare_runs
from studies.told_or_not.config import KINDS, FitConfig
from studies.told_or_not.study import run

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)

# %% [markdown]
# ## How many tasks does a stream have?
# The stream switches between two tasks whose means are two standard deviations of the noise apart.
# A learner that knows neither the means nor how often tasks change can still be exact: it carries
# the posterior over all sets of means of a grid, and all tasks.

# %%
stream = SwitchingStream(means=(0.2, 0.8), sigma=0.3, blocks=GeometricBlocks(0.1))
x, z = stream.sample(1, 100 if FAST else 200, draw, dtype=torch.float64)
grid = tuple(i / 10 for i in range(-4, 15))
learners = {
    K: SwitchingMeans(K, sigma=0.3, grid=grid, separation=0.5) for K in (1, 2, 3)
}
losses = {K: prequential_code(learner, x)[0] for K, learner in learners.items()}
for K, loss in losses.items():
    print(f"{K} task(s): code of {loss.sum():.1f} nats for {len(loss)} steps")

# %% [markdown]
# Each loss is $-\log p(x_t \mid x_1, \dots, x_{t-1})$. The learners are exact Bayesian ones, so by
# the chain rule their sum is minus the log evidence, and the difference of two codes is a log Bayes
# factor. Nothing was held out.

# %%
evidence = {
    f"{K} task(s)": Score(-loss.sum()[None], "log evidence")
    for K, loss in losses.items()
}
print(compare_models(evidence))

# %% [markdown]
# Step by step one sees where the decision falls. One task too few cannot explain what it sees, and
# pays whenever the stream goes where it did not look. One too many can explain all, but has to
# spread its bets over more sets of means, and goes on paying a little for a third task that never
# comes: Occam's factor.

# %%
behind = {
    f"{K} task(s)": (losses[K] - losses[2]).cumsum(0)[None].numpy() for K in (1, 3)
}
ax = plots.curves(
    behind, xlabel="step", ylabel="nats behind two tasks", floor={"two tasks": 0.0}
)
ax.figure

# %% [markdown]
# The prior is part of the answer. `separation=0.5` says that means nearer than that are one task;
# without it two tasks of nearly the same mean pass for one at nearly the same price, and streams of
# a single task are often said to have two.
#
# ## With or without a task: leave-one-out
# Now single trials, in any order. Does their distribution need a task? With one, a trial is
# Normal(m_k, s); without, Normal(m, s). Two unknown numbers each, whose posterior we draw from on a
# grid; `pyro.infer.MCMC` would serve as well.

# %%
trials = x[0, torch.randperm(x.shape[1], generator=draw)]


def with_task(x):
    means = pyro.sample("means", dist.Normal(0.5, 1.0).expand([2]).to_event(1))
    with pyro.plate("trial", len(x)):
        z = pyro.sample(
            "z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True}
        )
        pyro.sample("x", dist.Normal(z.to(x) @ means, 0.3), obs=x)


def draws_on_a_grid(log_likelihood, *axes, n=1000):
    """Draw from the posterior over the points of a grid: (n, number of axes)."""
    points = torch.cartesian_prod(*axes)
    log_posterior = log_likelihood(points).sum(-1)
    drawn = torch.multinomial(
        log_posterior.softmax(0), n, replacement=True, generator=draw
    )
    return points[drawn]


def mixture(points):
    """log p(x_i | two means), (points, trials)."""
    return dist.Normal(points[:, None], 0.3).log_prob(trials[:, None]).logsumexp(
        -1
    ) - math.log(2)


def single(points):
    """log p(x_i | mean and scale), (points, trials)."""
    mean, scale = points.T[..., None]
    return dist.Normal(mean, scale).log_prob(trials)


fine = torch.arange(-0.2, 1.2, 0.01).double()
means = draws_on_a_grid(mixture, fine, fine)
mean_and_scale = draws_on_a_grid(single, fine, torch.arange(0.2, 0.7, 0.005).double())

# %% [markdown]
# `to_inference_data` enumerates the task for each draw, so that the likelihood it hands to ArviZ is
# the marginal one. The model without a task has nothing to sum out. `az.loo` and `az.compare` work
# on both; `leave_one_out` returns the same, trial by trial.

# %%
told = to_inference_data({"means": means}, with_task, (trials,))
plain = az.from_dict(
    posterior={"mean": mean_and_scale[None, :, 0].numpy()},
    log_likelihood={"log_evidence": single(mean_and_scale)[None].numpy()},
)
print(
    compare_models(
        {"with a task": leave_one_out(told), "without": leave_one_out(plain)}
    )
)

# %% [markdown]
# The difference is no larger than its standard error: shuffled, these trials do not tell whether
# there are two tasks. The halves of the mixture overlap, and a single wide Normal does as well. In
# order the same numbers were told from each other by dozens of nats: that a task *lasts* is what a
# stream knows, and what each trial on its own has lost. A k-hat above .7 would say that
# leave-one-out is not to be believed.
#
# ## Networks: told, not told, told wrongly, and finding it out
# Four LSTMs see the same streams, seed by seed: one is told its task after it has predicted a
# batch, one has none, one is told the task of another sequence, and one has tasks but no labels
# (`GradientEM`). For networks the evidence integrates over weights, which nobody can do: what
# remains tractable is the code length of the training stream, each batch predicted by the weights
# learned from those before it, and held-out data given the weights. In both, the task is inferred.
#
# `gbi-pyro fit` and `gbi-pyro compare` do this from the command line, with ten seeds.

# %%
config = FitConfig(seeds=2 if FAST else 3, rounds=10 if FAST else 40, start_rounds=5)
if FAST:
    config = replace(config, sequences=8, length=25, hidden_size=8)
with tempfile.TemporaryDirectory() as folder:
    runs = [Path(folder) / name for name in KINDS.values()]
    for task, path in zip(KINDS, runs, strict=True):
        run(replace(config, task=task), path)
    table = compare_runs(runs, only=["held-out log", "log evidence", "prequential"])
rows = [{**row, "run": Path(row["run"]).name} for row in table.records()]
for row in rows:
    low, high = f"{row['low']:.2f}", f"{row['high']:.2f}"
    what = row["quantity"].split(",")[0]
    print(f"{row['run']:24} {row['difference']:10.2f} ({low} to {high}) nats, {what}")

# %% [markdown]
# Each number is a difference from the GBI-LSTM that is told its task, over the seeds that both
# have, with a paired 95 % interval: what a seed does to both cancels.

# %%
figure = Figure(figsize=(12, 2.6), layout="constrained")
axes = plots.comparisons(rows, list(figure.subplots(1, 3)), reference=KINDS["labels"])
figure

# %% [markdown]
# A network that finds its tasks out pays a little more while it learns, and then predicts as well
# as one that is told them (here; of ten seeds of the full study one did not find them). Without a
# task, or with that of another sequence, the same LSTM loses a third of a nat at every step. It
# loses little of that in its mean: what it lacks is the shape. Its prediction is one Normal, wide
# enough for a switch that comes every 33 steps; summed over tasks it would be two narrow ones, the
# second one improbable.
#
# Runs on different data are not compared:

# %%
with tempfile.TemporaryDirectory() as folder:
    small = replace(config.fast(), task="none", seeds=1)
    for name, sigma in (("usual", 0.1), ("noisy", 0.3)):
        run(replace(small, sigma=sigma), Path(folder) / name)
    try:
        compare_runs([Path(folder) / "usual", Path(folder) / "noisy"])
    except ValueError as error:
        print(str(error).replace(folder, "runs"))
