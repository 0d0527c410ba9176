# %% [markdown]
# # Toy study: a task that switches, and a network conditioned on it
#
# After this lesson you can train a recurrent network with its task as input, infer the task of each
# step from the network's gradient, and adapt the network to tasks that it never saw, without
# changing its weights.
#
# The stream is that of the paper (Hummos et al., arXiv 2407.17356), with twice its noise, so that a
# single number does not settle the task. The exact posterior is known, so that every
# estimate can be compared with it.

# %%
import os

import numpy as np
import torch
from matplotlib.figure import Figure

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)
MEANS, SIGMA, HAZARD = (0.2, 0.8), 0.2, 0.03

# %% [markdown]
# ## The task
# Numbers come from one of two Gaussians, with means .2 and .8. Which of them is the *task*; it
# changes at a step with probability .03, the *hazard*. For the generator as a Pyro model,
# enumeration gives the likelihood of each step under each task, and the Bayes filter puts these
# together along the chain: the exact posterior.

# %%
stream = gbi.data.SwitchingStream(MEANS, SIGMA, gbi.data.GeometricBlocks(HAZARD))
x, z = stream.sample(16, 60 if FAST else 120, draw)
chain = gbi.TaskChain(stream.log_initial, stream.log_transition)
generator = gbi.models.SwitchingGaussian(torch.tensor(MEANS), SIGMA)
exact = gbi.BayesFilter(gbi.Enumeration(), chain)(generator, x)
print(f"{exact.method}: {exact.passes.forward} forward passes for all steps at once")

# %% [markdown]
# One gradient step from the maximum-entropy point needs a single forward and backward pass. With
# two tasks and a mean affine in the task it *is* the exact posterior, whatever the prior; with
# three it is not, as the lesson *Your own model* shows.

# %%
one_step = gbi.BayesFilter(gbi.OneStepGradient(), chain)(generator, x)
difference = gbi.metrics.agreement(exact, one_step).max_difference
print(f"largest difference from the exact posterior: {difference:.1e}")

# %% [markdown]
# ## Learning
# Two LSTMs predict the next number. One is conditioned on the task while it learns (the *weight
# update*: Z clamped, the weights moved), the other is not. The curves show the error on streams
# that were not trained on, mean and standard error of two seeds; none can be below the noise.

# %%
KINDS = ("with the task", "without a task")
UPDATES, EVERY = 20 if FAST else 200, 5


def network_of(kind, seed):
    own = torch.Generator().manual_seed(seed)
    return gbi.models.SequenceLSTM(
        2 if kind == "with the task" else None, generator=own
    )


def error(network, x, z, skip=0):
    with torch.no_grad():
        return (network.mean(x, z) - x)[:, skip:].square().mean().item()


def train(kind, seed):
    """Train a network; return it with its error on x every few updates."""
    network, own = network_of(kind, seed), torch.Generator().manual_seed(seed)
    decaying = [p for p in network.parameters() if p is not network.log_sigma]
    optimiser = torch.optim.AdamW(decaying, lr=0.01, weight_decay=1.0)
    optimiser.add_param_group({"params": [network.log_sigma], "weight_decay": 0.0})
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, UPDATES)
    errors = []
    for update in range(UPDATES):
        batch = stream.sample(32, 100, own)
        task = (batch.one_hot(2),) if network.num_tasks else ()
        loss = gbi.clamped_loss(network, batch.x, *task)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if update % EVERY == 0:
            errors.append(error(network, x, one_hot if network.num_tasks else None))
    return network.requires_grad_(False).eval(), errors


one_hot = torch.nn.functional.one_hot(z, 2).float()
trained = {kind: [train(kind, seed) for seed in range(2)] for kind in KINDS}
curves = {kind: [errors for _, errors in found] for kind, found in trained.items()}
for kind, errors in curves.items():
    print(f"{kind}: error / noise = {np.mean(errors, 0)[-1] / SIGMA**2:.2f}")
look = {"floor": SIGMA**2, "log": True, "better": "lower"}
at = np.arange(0, UPDATES, EVERY) + 1
gbi.plots.curves(curves, x=at, xlabel="weight update", **look).figure

# %% [markdown]
# Given its task, the network has nothing left to find out and reaches the noise; the other one has
# to infer the task from its past, which costs a few steps at every switch.
#
# ## Forgetting
# The same in one stream, block after block, with a weight update at every step on the last ten
# steps. Does the network keep the task of the last block but one, while it learns the other? The
# first twenty steps are left out, in which a network without a task has to find out which it is.

# %%
BLOCK, BLOCKS = (25, 4) if FAST else (50, 20)
in_blocks = gbi.data.SwitchingStream(MEANS, SIGMA, gbi.data.FixedBlocks(BLOCK))
for kind in KINDS:
    forgetting = []
    for seed in range(2):
        own = torch.Generator().manual_seed(seed)
        long = in_blocks.sample(1, BLOCK * BLOCKS, own)
        network = network_of(kind, seed)
        optimiser = torch.optim.Adam(network.parameters(), lr=0.001)
        for t in range(BLOCK * BLOCKS):
            past = slice(max(0, t - 9), t + 1)
            task = (long.one_hot(2)[:, past],) if network.num_tasks else ()
            optimiser.zero_grad()
            gbi.clamped_loss(network, long.x[:, past], *task).backward()
            optimiser.step()
        last = in_blocks.sample(32, BLOCK, own)  # blocks of either task
        other = last.z[:, 0] == long.z[0, -BLOCK - 1]
        task = last.one_hot(2)[other] if network.num_tasks else None
        forgetting.append(error(network, last.x[other], task, skip=20))
    print(
        f"{kind}: error on the task of the last block but one {np.mean(forgetting):.3f}"
    )

# %% [markdown]
# What the network learned of one task is mostly still there when that task is given again. Without
# a task the last block has overwritten it. (The paper also finds that tasks come to use
# different units; over twenty seeds of the study this did not come out.)
#
# ## Inference: the trained network in place of the generator
# The weights are frozen now, and the task is not given. `stepwise` gives each step its likelihood
# given the past alone: a gradient through the recurrent state would see the future.

# %%
network, plain = (trained[kind][0][0] for kind in KINDS)
steps = gbi.stepwise(network, x)
gradients = gbi.OneStepGradient()(steps).logits()
filtered = gbi.BayesFilter(gbi.OneStepGradient(), chain)(steps)
kl = gbi.metrics.agreement(exact, filtered).kl
print(f"KL(exact || one step of the network) = {kl:.1e} nats per step")
log_odds = [q[..., 1] - q[..., 0] for q in (stream.log_emission(x), gradients)]
correlation = np.corrcoef(*(odds.flatten() for odds in log_odds))[0, 1]
print(f"correlation of gradient and log likelihood ratio: {correlation:.4f}")

# %% [markdown]
# From top to bottom: a stream; the gradient at each step, which is the evidence of that step alone,
# for one task or the other; the gradients put together by the Bayes filter (black), the exact
# posterior behind them (grey). The network knows what a number says about the task; how tasks
# follow each other is the filter's part.

# %%
most = int((z.diff() != 0).sum(1).argmax())  # the sequence that switches most
figure = Figure(figsize=(8, 6.4), layout="constrained")
top, middle, bottom = figure.subplots(3, 1, sharex=True)
gbi.plots.stream(x[most], z[most], MEANS, top)
gbi.plots.gradients(gradients[most] - gradients[most].mean(-1, True), z[most], middle)
gbi.plots.task_probs(filtered.probs()[most], exact.probs()[most], z[most], 1, bottom)
for ax in (top, middle):
    ax.set_xlabel("")
figure

# %% [markdown]
# ## Means that the network never saw
# Where a task is *new*, no filter over two tasks can follow. But Z can be moved by the gradient,
# step after step; left free, it leaves the simplex and finds a point that no training task had. The
# weights stay. Blocks of known mean .2 are followed by blocks of another mean. The same with Z kept
# on the simplex, and an LSTM without a task, are baselines. A useful step size
# is of the order of the variance of the noise.

# %%
means = torch.linspace(-0.2, 1.2, 15)
known, new = 30, 30 if FAST else 100
centres = torch.cat(
    [torch.full((15, known), 0.2), means.unsqueeze(-1).expand(-1, new)], 1
)
noise = SIGMA * torch.randn(8, *centres.shape, generator=draw)
blocks = (centres + noise).flatten(0, 1)  # eight streams for each mean
start = torch.full((len(blocks), 2), 0.5)
predictions = {
    "Z free": gbi.OnlineGradient(0.03, 1, "free")(network, blocks, start).mean,
    "Z on the simplex": gbi.OnlineGradient(0.2, 1, "simplex")(
        network, blocks, start
    ).mean,
    "without a task": plain.mean(blocks, None),
}
errors, predicted = {}, {}
for name, mean in predictions.items():
    mean = mean.unflatten(0, (8, 15))[..., -20:]
    errors[name] = (mean - blocks.unflatten(0, (8, 15))[..., -20:]).square().mean(-1)
    predicted[name] = mean.mean(-1)
    print(
        f"{name}: error in the last 20 steps {errors[name].mean():.3f} "
        f"(noise {SIGMA**2:.3f})"
    )

# %% [markdown]
# Error in the last 20 steps (left) and mean prediction (right), by the true mean of the block; the
# range of the means in training is shaded.

# %%
figure = Figure(figsize=(11, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
gbi.plots.by_mean(means, errors, MEANS, left, **look)
gbi.plots.predicted_mean(means, predicted, right, hull=MEANS)
figure

# %% [markdown]
# Free Z keeps its error near the noise for means up to .4 beyond those of training. Z on the
# simplex does well between the training means and fails outside. An LSTM without a task is worse
# between them, and fails outside too.
#
# **Next:** [Images](images.ipynb) and [Language](language.ipynb) use the same steps for larger
# networks. The study with twenty seeds, intervals and more baselines is under *Results*.
