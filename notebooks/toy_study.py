# %% [markdown]
# # The toy study: a task that switches, and a network that is told of it
#
# The paper's Figures 1 to 3 (Hummos et al., arXiv 2407.17356), with the exact posterior of the
# hidden Markov chain beside every estimate.

# %%
import os

import numpy as np
import torch
from matplotlib.figure import Figure

from gbi_pyro import (
    BayesFilter,
    Enumeration,
    OneStepGradient,
    plots,
    stepwise,
    to_inference_data,
)
from gbi_pyro.metrics.agreement import agreement
from gbi_pyro.models.switching import SwitchingGaussian
from studies.toy.adaptation import (
    EDGE,
    ON_SIMPLEX,
    adapt,
    adapters_to_switches,
    adapters_to_unseen,
)
from studies.toy.blocks import learn_blocks
from studies.toy.config import ToyConfig
from studies.toy.training import generator, make_stream, train_network

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
config = ToyConfig(seeds=2).fast() if FAST else ToyConfig(seeds=2)

# %% [markdown]
# ## Figure 1: the task
# Numbers come from one of two Gaussians, with means .2 and .8. Which of them is the *task*; it
# changes at a step with probability .03, the *hazard*. This is the case to learn on, since the
# exact posterior over the task is known: for the generator as a Pyro model, enumeration gives the
# evidence of each step, and the Bayes filter adds it up along the chain.

# %%
stream = make_stream(config)
x, z = stream.sample(config.test_sequences, config.test_length, generator(0, "test"))
chain = stream.log_initial, stream.log_transition
model = SwitchingGaussian(torch.tensor(stream.means), stream.sigma)
exact = BayesFilter(Enumeration(), *chain)(model, x)
print(f"{exact.method}: {exact.passes.forward} forward passes for all steps at once")

# %% [markdown]
# One gradient step from the maximum-entropy point needs a single forward and backward pass. With
# two tasks and a mean affine in the task it *is* the exact posterior, whatever the prior; with
# three it is not, as the lesson *Your own model* shows.

# %%
one_step = BayesFilter(OneStepGradient(), *chain)(model, x)
difference = agreement(exact, one_step).max_difference
print(f"largest difference from the exact posterior: {difference:.1e}")

# %% [markdown]
# ## Figure 2: learning
# Two LSTMs predict the next number. One is told the task while it learns (the *weight update*: Z
# clamped, the network moved), the other is not. The noise of the stream is the floor for both.

# %%
kinds = {"GBI-LSTM": True, "LSTM": False}
trained = {
    name: [train_network(config, seed, stream, told=told) for seed in config.all_seeds]
    for name, told in kinds.items()
}
for name, networks in trained.items():
    ratio = np.mean(
        [network.validation_mse[-1] / network.floor for network in networks]
    )
    print(f"{name}: error after training / noise floor = {ratio:.2f}")

# %% [markdown]
# Told its task, the network has nothing left to find out and reaches the floor; the plain one has
# to infer the task from its past, which costs a few steps at every switch.
#
# The same in one stream, block after block, with a weight update at every step: here forgetting
# would show, as an error that starts anew in each block, and modularity, as hidden units that two
# blocks do not share.

# %%
blocks = {
    name: [learn_blocks(config, seed, told=told) for seed in config.all_seeds]
    for name, told in kinds.items()
}
figure = Figure(figsize=(10.5, 3.2), layout="constrained")
left, middle, right = figure.subplots(1, 3)
curves = {
    name: np.stack([n.train_mse for n in networks])
    for name, networks in trained.items()
}
floor = config.sigma**2
plots.curves(curves, left, floor, xlabel="weight update", log=True)
errors = {
    name: np.stack([run.block_mse for run in runs]) for name, runs in blocks.items()
}
plots.blocks(errors, middle, floor, ylabel="mean squared error from step 21")
shared = {
    name: np.stack([run.shared_units for run in runs]) for name, runs in blocks.items()
}
plots.binned(shared, 5, right, ylabel="units shared with the next block")
right.tick_params(axis="x", labelrotation=60)
figure

# %%
for name, runs in blocks.items():
    forgetting = np.mean([run.forgetting for run in runs])
    print(f"{name}: error on the other task after the last block {forgetting:.4f}")

# %% [markdown]
# What the network that was told its task learned of one task is mostly still there when it is
# told so again. That told networks share fewer units, as the paper finds, does not come out here:
# see the results of the whole study, over twenty seeds.
#
# ## Figure 1 again: the trained network in place of the generator
# The weights are frozen now, and the task is not told any more. `stepwise` gives each step its
# evidence given the past alone: a gradient through the recurrent state would see the future.

# %%
network = trained["GBI-LSTM"][0].network
steps = stepwise(network, x)
evidence = OneStepGradient()(steps)
filtered = BayesFilter(OneStepGradient(), *chain)(steps)
print(
    f"KL(exact || one step of the network) = "
    f"{agreement(exact, filtered).kl:.2e} nats per step"
)

# %%
data = to_inference_data(filtered, observed={"x": x}, labels={"z": z}, exact=exact)
shown = slice(0, min(120, config.test_length))
most = int((z[:, shown].diff() != 0).sum(1).argmax())  # the sequence that switches most
data = data.isel(sequence=[most], time=shown)
figure = Figure(figsize=(7, 5.6), layout="constrained")
top, centre, bottom = figure.subplots(3, 1, sharex=True)
plots.stream(x[most, shown], z[most, shown], stream.means, top)
plots.likelihood(stream.log_emission(x)[most, shown], centre)
plots.task_probs(data, task=1, ax=bottom)
for ax in (top, centre):
    ax.set_xlabel("")
figure

# %% [markdown]
# The black line is one gradient step of an LSTM, the grey one behind it the exact posterior of a
# chain that the LSTM was never told of. It knows what a number says about the task; how tasks
# follow each other is the filter's part.
#
# ## Figure 3: gradients as evidence
# At maximum entropy the network predicts the middle of both means, and the gradient there tracks
# the log likelihood ratio.

# %%
figure = Figure(figsize=(10.5, 3.2), layout="constrained")
left, middle, right = figure.subplots(1, 3)
at_rest = network.mean(x, network.uniform(*x.shape)).detach()
one = most, shown
plots.stream(x[one], z[one], stream.means, left, prediction=at_rest[one])
gradient = evidence.logits() - evidence.logits().mean(-1, keepdim=True)
plots.gradients(gradient[one], z[one], middle)
log_odds = [q[..., 1] - q[..., 0] for q in (stream.log_emission(x), evidence.logits())]
plots.binary_log_odds(*(odds[:4] for odds in log_odds), right)  # of four sequences
figure

# %%
correlation = np.corrcoef(*(odds.flatten().numpy() for odds in log_odds))[0, 1]
print(f"correlation of gradient and log likelihood ratio: {correlation:.4f}")

# %% [markdown]
# ## Figure 3: means that the network never saw
# The paper's way to infer a task online is to move Z by the gradient, step after step. Where tasks
# are known ones, the filter above does better: it knows how tasks switch. Where a task is
# *new*, no filter over two tasks can follow, but Z can: left free, it leaves the simplex and finds
# a point that no training task had. Rates and horizons are chosen on validation streams.

# %%
told, plain = trained["GBI-LSTM"], trained["LSTM"]
to_switches = adapters_to_switches(config, told, plain)[ON_SIMPLEX]
moved = to_switches(x.expand(len(told), *x.shape))  # all networks side by side
adaptation = adapt(config, adapters_to_unseen(config, told, plain), plain)
for name, run in adaptation.errors.items():
    error = run[..., -EDGE:].mean()
    print(f"{name}: error in the last {EDGE} steps {error:.4f} (floor {floor:.4f})")

# %%
figure = Figure(figsize=(11.5, 3.4), layout="constrained")
left, middle, right = figure.subplots(1, 3)
values = moved.values[0][one]
plots.task_probs(values, exact.probs()[one], z[one], task=1, ax=left)
left.set_ylabel("Z of task 1, moved online")
hull = min(config.means), max(config.means)
last = {name: run[..., -EDGE:].mean(-1) for name, run in adaptation.errors.items()}
label = f"mean squared error, last {EDGE} steps"
plots.by_mean(adaptation.means, last, hull, middle, floor, ylabel=label, log=True)
plots.predicted_mean(adaptation.means, adaptation.predicted, right, hull=hull)
figure

# %% [markdown]
# Free Z keeps its error near the floor for means up to .4 beyond those of training; Z on the
# simplex, and an LSTM whose inputs are moved instead, do well between the training means and fail
# outside. `gbi-pyro toy` runs the whole study, with intervals over seeds and a bar for each claim.
