# %% [markdown]
# # Comparing models: is there a task, how many, and does conditioning on it help?
#
# After this lesson you can compare models with and without a task by three criteria, and say how
# sure the answer is. All are in nats, and all have the tasks *summed out*: a model that is scored
# with its tasks known is scored on an easier problem.
#
# | | what it asks | what it needs |
# |---|---|---|
# | log evidence | how probable the data were before they came | a prior, and an integral over it |
# | prequential code | what each step cost before it was learned | a learner; no held-out data |
# | leave-one-out | how well each trial is predicted from all others | draws of what was learned |

# %%
import math
import os

import pyro
import pyro.distributions as dist
import torch
import xarray as xr
from matplotlib.figure import Figure

import gbi_pyro as gbi

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
stream = gbi.data.SwitchingStream(
    means=(0.2, 0.8), sigma=0.3, blocks=gbi.data.GeometricBlocks(0.1)
)
x, z = stream.sample(1, 100 if FAST else 200, draw, dtype=torch.float64)
grid = tuple(i / 10 for i in range(-4, 15))
learners = {
    K: gbi.metrics.SwitchingMeans(K, sigma=0.3, grid=grid, separation=0.5)
    for K in (1, 2, 3)
}
losses = {
    K: gbi.metrics.prequential_code(learner, x)[0] for K, learner in learners.items()
}
for K, loss in losses.items():
    print(f"{K} task(s): code of {loss.sum():.1f} nats for {len(loss)} steps")

# %% [markdown]
# Each loss is $-\log p(x_t \mid x_1, \dots, x_{t-1})$. The learners are exact Bayesian ones, so by
# the chain rule their sum is minus the log evidence, and the difference of two codes is a log Bayes
# factor. Nothing was held out.

# %%
evidence = {
    f"{K} task(s)": gbi.metrics.Score(-loss.sum()[None], "log evidence")
    for K, loss in losses.items()
}
print(gbi.metrics.compare_models(evidence))

# %% [markdown]
# Step by step one sees where the decision falls. One task too few cannot explain what it sees, and
# pays whenever the stream goes where it did not look. One too many can explain everything, but
# spreads its probability over more sets of means, and goes on paying a little for a third task that
# never comes: Occam's factor.

# %%
behind = {
    f"{K} task(s)": (losses[K] - losses[2]).cumsum(0)[None].numpy() for K in (1, 3)
}
ax = gbi.plots.curves(
    behind, xlabel="step", ylabel="nats behind two tasks", floor={"two tasks": 0.0}
)
ax.figure

# %% [markdown]
# The prior is part of the answer. `separation=0.5` says that means nearer than that are one task;
# without it two tasks of nearly the same mean cost hardly more than one, and streams of a single
# task are often said to have two.
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
# the marginal one, and `az.loo` and `az.compare` work on it. The model without a task has nothing
# to sum out: its log likelihood is all that is needed, in xarray's `DataTree`, which ArviZ takes
# from 1.0 on. `leave_one_out` takes both, and returns what `az.loo` does, trial by trial.

# %%
with_z = gbi.to_inference_data({"means": means}, with_task, (trials,))
sample = ("chain", "draw")
log_likelihood = single(mean_and_scale)[None].numpy()
plain = xr.DataTree.from_dict(
    {
        "posterior": xr.Dataset({"mean": (sample, mean_and_scale[None, :, 0].numpy())}),
        "log_likelihood": xr.Dataset({"x": ((*sample, "trial"), log_likelihood)}),
    }
)
print(
    gbi.metrics.compare_models(
        {
            "with a task": gbi.metrics.leave_one_out(with_z),
            "without": gbi.metrics.leave_one_out(plain),
        }
    )
)

# %% [markdown]
# The difference is no larger than its standard error: shuffled, these trials do not show whether
# there are two tasks. The halves of the mixture overlap, and a single wide Normal does as well. In
# order, the same numbers decided by dozens of nats: that a task *lasts* is what a stream shows, and
# what is lost when its trials are taken one by one. A k-hat above .7 would say that leave-one-out
# cannot be relied on here.
#
# ## Networks: with a task, without one, and with shuffled labels
# For networks the evidence integrates over the weights, which nobody can do. What remains is
# held-out data given the weights, and more than one seed. Three kinds of LSTM see the same streams,
# seed by seed: one is conditioned on its task while it learns, one has no task, and one is given
# the task of another sequence. On held-out streams no task is given to any: it is inferred, step by
# step, and summed out.

# %%
STREAM = (
    gbi.data.SwitchingStream()
)  # means .2 and .8, noise .1, a switch every 33 steps
CHAIN = gbi.TaskChain(STREAM.log_initial, STREAM.log_transition)
SEEDS = range(2 if FAST else 5)
KINDS = ("conditioned", "unconditioned", "shuffled labels")


def train(kind, seed):
    own = torch.Generator().manual_seed(seed)
    num_tasks = None if kind == "unconditioned" else 2
    network = gbi.models.SequenceLSTM(
        num_tasks, 16, generator=torch.Generator().manual_seed(seed)
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.02, weight_decay=0.1)
    for _ in range(20 if FAST else 200):
        batch = STREAM.sample(16, 60, own)
        z = (
            batch.one_hot(2).roll(1, 0)
            if kind == "shuffled labels"
            else batch.one_hot(2)
        )
        task = () if num_tasks is None else (z,)
        loss = gbi.clamped_loss(network, batch.x, *task)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.requires_grad_(False).eval()


def held_out(network, x):
    """log p(sequence), per step, tasks summed out: (sequences,)."""
    if network.num_tasks is None:
        steps = dist.Normal(network.mean(x, None), network.sigma).log_prob(x)
        return steps.mean(-1)
    infer = gbi.BayesFilter(gbi.Enumeration(), CHAIN)
    return infer(gbi.stepwise(network, x)).log_evidence / x.shape[1]


test = STREAM.sample(20, 100, draw).x
scores = {
    kind: torch.stack([held_out(train(kind, seed), test) for seed in SEEDS])
    for kind in KINDS
}  # (seeds, sequences)
for kind, nats in scores.items():
    print(
        f"{kind:16}",
        *(f"{value:6.3f}" for value in nats.mean(-1)),
        "nats per step, by seed",
    )

# %% [markdown]
# Of one seed, `compare_models` compares sequence by sequence; the next seed might decide otherwise.
# Over seeds, `paired_bootstrap` gives an interval in which what a seed does to both networks
# cancels.

# %%
one_seed = {
    kind: gbi.metrics.Score(nats[0], "held-out") for kind, nats in scores.items()
}
print(gbi.metrics.compare_models(one_seed))
rows = []
for kind in KINDS[1:]:
    first, second = scores[kind].mean(-1), scores["conditioned"].mean(-1)
    found = gbi.metrics.paired_bootstrap(first, second)
    row = {"difference": found.mean, "low": found.low, "high": found.high}
    rows.append({"quantity": "held-out log p(x), nats per step", "run": kind, **row})
    print(
        f"{kind}: {found.mean:.3f} ({found.low:.3f} to {found.high:.3f}) nats per step"
    )

# %% [markdown]
# The differences with their 95 % intervals; left of zero a network is worse than the conditioned
# one:

# %%
figure = Figure(figsize=(6, 2), layout="constrained")
gbi.plots.comparison(rows, figure.subplots(), reference="the conditioned network")
figure

# %% [markdown]
# Without a task, or with that of another sequence, the same LSTM loses more than a fifth of a nat
# at every step. It loses little of that in its mean: what it lacks is the shape. Its prediction is
# one Normal, wide enough for a switch that comes every 33 steps; summed over tasks it would be two
# narrow ones, the second one improbable. So this stream has tasks that the network can use. On a
# stream of one task the three are alike: try it with `means=(0.5, 0.5)`.
#
# **Next:** [Toy study](toy_study.ipynb) looks into such networks. `gbi-pyro compare` compares runs
# on disk.
