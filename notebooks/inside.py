# %% [markdown]
# # What does the task input do inside my network?
#
# After this lesson you can say whether a network uses the task that it is given, where in the
# network the task is, what it changes there and what shape it has, and tell which of these numbers
# mislead, and when.
#
# 1. Is the task used? In nats.
# 2. Where is it? A probe for each layer, nats for each unit.
# 3. What does it change? Similarity of the activity with the task and without it.
# 4. What shape has it? Effective rank, in all and within tasks.
# 5. What do meaningless labels give for 1-4?
# 6. Three ways to be misled.

# %%
import os

import matplotlib.pyplot as plt
import torch

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
GREY, DARK, ACCENT = "0.6", "0.2", "C3"
MEANS, SIGMA, K, H = (0.2, 0.8), 0.1, 2, 32
UPDATES, SEEDS = (12, 1) if FAST else (60, 3)
KINDS = "true", "shuffled", "constant", "untrained"

# %% [markdown]
# ## The networks
# An LSTM predicts the next number of a stream that switches between two Gaussians, and is given the
# task of each step. Three networks learn: with the true tasks; with the same labels *shuffled* over
# all steps; and with a *constant* label. The last two have nothing to learn from their task input.
# A fourth one has learned nothing at all.

# %%
stream = gbi.data.SwitchingStream(MEANS, SIGMA, gbi.data.GeometricBlocks(0.03))
chain = gbi.TaskChain(stream.log_initial, stream.log_transition)


def labels(batch, kind, draw):
    z = batch.one_hot(K)
    if kind == "shuffled":
        order = torch.randperm(batch.z.numel(), generator=draw)
        return z.flatten(0, 1)[order].view_as(z)
    if kind == "constant":
        return torch.eye(K)[0].expand_as(z)
    return z


def train(kind, updates=UPDATES, seed=0):
    draw = torch.Generator().manual_seed(seed)
    network = gbi.models.SequenceLSTM(K, H, generator=draw)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(0 if kind == "untrained" else updates):
        batch = stream.sample(32, 100, draw)
        optimiser.zero_grad()
        gbi.clamped_loss(network, batch.x, labels(batch, kind, draw)).backward()
        optimiser.step()
    return network.requires_grad_(False).eval()


networks = {kind: train(kind) for kind in KINDS}
network = networks["true"]

new = torch.Generator().manual_seed(1)
test = stream.sample(48, 100, new)  # never trained on
x = test.x
given = {kind: labels(test, kind, new) for kind in KINDS}
true, middle = given["true"], network.uniform(*x.shape)
for kind, one in networks.items():
    error = (one.mean(x, given[kind]) - x).square().mean().item()
    print(f"{kind:10} error / noise = {error / SIGMA**2:.2f}")

# %%
at = next(i for i, z in enumerate(test.z) if z[30:60].unique().numel() == 2)
steps = slice(20, 70)
fig, ax = plt.subplots(figsize=(8, 2.6), layout="constrained")
look = {"ls": "", "marker": ".", "color": GREY}
ax.plot(x[at, steps], label="observed", **look)
ax.plot(network.mean(x, true)[at, steps], color=DARK, label="given the task")
by_middle = network.mean(x, middle)[at, steps]
ax.plot(by_middle, color=ACCENT, ls="--", label="at maximum entropy")
ax.set(xlabel="step", ylabel="x", title="What the network predicts")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Given its task, the network reaches the noise, and its prediction follows a switch at once (down)
# or within a few steps (up). At maximum entropy it predicts the middle throughout, whatever it has
# seen: this network reads the task from its input, not from the past. With labels that say nothing
# the error is more than twice the noise.
#
# ## 1. Is the task used?
# Two numbers, both in nats per step. `task_gain` is the log likelihood at the true task over that
# at maximum entropy, the middle of all tasks. `task_transfer` compares with what somebody would
# predict who does not know the task but knows the past: the mixture over tasks that the Bayes
# filter expects. The generator stands beside the network; its numbers are exact.


# %%
def use(network, z):
    """Return gain and transfer, each step from the state carried under z."""
    per_step = gbi.stepwise(network, x, tasks={"z": z})
    transfer = gbi.metrics.task_transfer(per_step, {"z": z}, chain=chain)
    return gbi.metrics.task_gain(network, {"z": z}, x), transfer


def show(name, sigma, gain, transfer):
    print(f"{name:10} sigma {sigma:.2f}, gain {gain:.2f}, transfer", end=" ")
    print(f"{transfer.achieved:.4f} (expected {transfer.believed:.4f})")


generator = gbi.models.SwitchingGaussian(torch.tensor(MEANS), SIGMA)
gain = gbi.metrics.task_gain(generator, {"z": true}, x)
exact = gbi.metrics.task_transfer(generator, {"z": true}, x, chain=chain)
show("generator", SIGMA, gain, exact)
for updates in (4, 8, 12) if FAST else (20, 40, 60):
    one = train("true", updates)
    show(f"{updates} updates", one.sigma, *use(one, true))

# %% [markdown]
# Both say that the task is used, and they differ by a factor of twenty. The gain compares with a
# forecast that nobody would make: all mass at .5, between the two means, as sharp as at a mean. The
# sharper the network gets (sigma falls), the worse that forecast, and the gain goes on growing with
# training. The transfer compares with the best forecast without the label. Blocks are long, so the
# past nearly tells the task, and only switches are news: .147 nats per step, which this network
# gets as fully as the generator itself. *Gain* says whether the task is wired in; *transfer* says
# what it is worth to know.
#
# The value in brackets is what the model expects of labels drawn from its own filter. It differs
# from the achieved one even for the generator, since switches are few: compare networks on the same
# data.
#
# ## 2. Where is it?
# `record` keeps what the modules of a network return while it runs. A linear probe finds the task
# in it, or does not; `task_information` gives the nats that each unit holds on the task. Steps of
# one block resemble each other, so units are judged on every tenth step. The first ten steps of a
# sequence, in which the state settles, are left out.


# %%
LAYERS = ("embed", "lstm", "head")
ids = test.z[:, 10:].flatten()
switch = (test.z[:, 10:] != test.z[:, 9:-1]).flatten()
half = len(ids) // 2  # whole sequences on both sides


def activity(network, z):
    with gbi.representation.record(network, *LAYERS) as found:
        network.mean(x, z)
    return {name: calls[0][:, 10:].flatten(0, 1) for name, calls in found.items()}


def probe(h, chosen=slice(None)):
    """Fit a probe on the first half; judge it on chosen steps of the second one."""
    held_out, right = h[half:][chosen], ids[half:][chosen]
    return gbi.representation.linear_probe(h[:half], ids[:half], held_out, right)


recorded = {
    "untrained, given the task": activity(networks["untrained"], true),
    "trained, given the task": activity(network, true),
    "trained, maximum entropy": activity(network, middle),
}
for name, found in recorded.items():
    row = ", ".join(f"{layer} {probe(found[layer]):.2f}" for layer in LAYERS)
    at_switch = probe(found["lstm"], switch[half:])
    print(f"{name:26} probe {row}; at a switch {at_switch:.2f}")

# %%
nats = {}
for name, found in recorded.items():
    units = gbi.representation.task_information(found["lstm"][::10], ids[::10])
    nats[name] = units.sort(descending=True).values
    print(f"{name:26} median {units.median():.2f}, most {units.max():.2f} nats")
fig, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
looks = ({"color": GREY, "ls": "--"}, {"color": DARK}, {"color": ACCENT, "ls": ":"})
for (name, found), look in zip(nats.items(), looks, strict=True):
    ax.plot(range(1, H + 1), found, label=name, **look)
ax.axhline(0.693, color="0.85", lw=5, zorder=0, label="log 2: all of it")
ax.set(xlabel="unit of the LSTM, best first", ylabel="nats", ylim=(0, 0.75))
ax.set_title("What each unit holds on the task")
ax.legend(loc="lower left", fontsize="small")
plt.show()

# %% [markdown]
# A probe finds the task everywhere, *also in the network that has learned nothing*, which is given
# the task and passes it on. It finds it at maximum entropy too, with .97, since the last
# observation is at the input and tells the last task; at a switch it is never right. The nats per
# unit say the same: the untrained network has units with all of log 2, and training spreads the
# task to nearly all units, from a median of .64 nats to .69. At maximum entropy .55 are left. So
# where the task is tells nothing of its use.
#
# (Under `stepwise` a `SequenceLSTM` does not call its modules, and `record` warns of it. Record
# `network.mean(x, z)`, as here.)
#
# ## 3. What does it change?
# The same network on the same stream, with its task and at maximum entropy: how alike is its
# activity? `similarity` gives a number between about 0 and 1, the number within each task, and the
# reasons why not to trust it.

# %%
with_task, without = recorded["trained, given the task"], activity(network, middle)
for layer in ("embed", "lstm"):
    found = gbi.representation.similarity(with_task[layer], without[layer], tasks=ids)
    within = ", ".join(f"{v:.2f}" for v in found.within)
    print(f"{layer}: {found.value:.2f} in all; within tasks {within}")
    for words in found.warnings:
        print("   warning:", words)


def shared(h):
    """Return how much of the activity is of units engaged in every task."""
    by_task = [h[ids == k] for k in range(K)]
    return gbi.representation.shared_unit_sweep(by_task).area


panels = {"given the task": with_task["lstm"], "at maximum entropy": without["lstm"]}
for name, h in panels.items():
    deviation = h.var(0).sum().sqrt()
    print(f"{name}: standard deviation {deviation:.2f}, shared units {shared(h):.2f}")
    apart = h[ids == 1].mean(0) - h[ids == 0].mean(0)
    first = torch.linalg.svd(h - h.mean(0), full_matrices=False).Vh[0]
    cosine = torch.cosine_similarity(first, apart, dim=0).abs()
    print(f"   cosine of the first component and of task 1 - task 0: {cosine:.2f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3), sharex=True, sharey=True)
fig.set_layout_engine("constrained")
looks = {"color": GREY, "marker": "s"}, {"color": DARK, "marker": "^"}
for ax, (name, h) in zip(axes, panels.items(), strict=True):
    about_mean = h - h.mean(0)
    first_two = torch.linalg.svd(about_mean, full_matrices=False).Vh[:2]
    for k, look in enumerate(looks):
        first, second = (about_mean @ first_two.mT)[ids == k][::4].T
        ax.scatter(first, second, s=10, lw=0, label=f"task {k}", **look)
    ax.set(title=f"LSTM, {name}", xlabel="first principal component")
axes[0].set_ylabel("second")
axes[0].legend(markerscale=2)
plt.show()

# %% [markdown]
# CKA says .82, "much alike", and the picture says that little is. Two things are behind it. CKA
# ignores scale: at maximum entropy the activity is a thirteenth as large. And one direction
# decides, as the warnings say. With the task and without it this is the direction from one task to
# the other: without it observations are all that moves the state, and the last one mostly tells the
# task. Within tasks the LSTM has .67 and .82. The first layer has .82 in all too, but 1.00 within
# tasks: it is linear, and the task moves its activity without doing anything else to it. Read the
# values within tasks, and look at the activity.
#
# Shared units see what CKA does not. Given the task, units vary in one task or in the other (.09 is
# near 0, units of their own for each); at maximum entropy the same units vary in both (.81).
#
# ## 4. What shape has it?
# The effective rank says how many directions the activity fills. Before training it depends on what
# is at the input, so a network is compared with its own start.

# %%
for name, found in recorded.items():
    shape = gbi.representation.geometry(found["lstm"], ids)
    by_task = ", ".join(f"{part.rank:.1f}" for part in shape.by_task)
    print(f"{name:26} rank {shape.rank:.1f} in all; within tasks {by_task}")
    for words in shape.warnings:
        print("   warning:", words)

# %% [markdown]
# Training draws the activity together, from rank 2.8 to 1.5: the direction between tasks outgrows
# all others. Within tasks, rank moves less and not in one direction (3.8 and 3.9 before, 4.5 and
# 3.1 after), so "training lowers the rank" would be a statement about the means of two tasks alone.
#
# ## 5. What do meaningless labels give?
# All of it again, each network with the labels that it was trained with. The probe and the nats ask
# for the *true* task.


# %%
def numbers(network, z):
    """Return all numbers of sections 1 to 4, with the task input z."""
    h, h_middle = (activity(network, task)["lstm"] for task in (z, middle))
    gain, transfer = use(network, z)
    alike = gbi.representation.similarity(h, h_middle, tasks=ids)
    shape = gbi.representation.geometry(h, ids)
    return {
        "gain": gain,
        "transfer": transfer.achieved,
        "probe": probe(h),
        "nats": gbi.representation.task_information(h[::10], ids[::10]).max().item(),
        "similarity": alike.value,
        "similarity within": alike.within.mean().item(),
        "shared units": shared(h),
        "rank": shape.rank,
        "rank within": sum(part.rank for part in shape.by_task) / K,
    }


table = {}
for kind in KINDS:
    each = [numbers(train(kind, seed=i), given[kind]) for i in range(SEEDS)]
    for name in each[0]:
        of_seeds = [found[name] for found in each]
        spread = f"{min(of_seeds):z.2f} .. {max(of_seeds):z.2f}"
        table.setdefault(name, []).append(spread)
print(f"{'':18}" + "".join(f"{kind:>15}" for kind in KINDS))
for name, row in table.items():
    print(f"{name:18}" + "".join(f"{spread:>15}" for spread in row))

# %% [markdown]
# - **Transfer** is .15 with true labels, 0 with shuffled ones, and within .02 of 0 with a constant
#   one.
# - **Gain** is above 0 with a constant label, up to half a nat, although that label says nothing.
#   The middle is a task input which that network never saw, and it predicts badly there. Shuffled
#   labels have no such effect: with them the network learned to ignore its input.
# - **Probe** and **nats** are the same in the trained and in the untrained network, and .97 and .55
#   with meaningless labels. They tell whether the task is at the input, and nothing else.
# - **Similarity** with and without the task is 1.00 with shuffled labels: the input is ignored.
#   Less than 1 is no sign of use: the untrained network has .94, that with a constant label .93.
# - **Shared units** are few with true labels alone, and the **rank** in all is lowest there. Rank
#   within tasks is as low with a constant label, so it does not show that a task is used.
#
# Three networks of each kind are few: this is a lesson, not a study.
#
# ## 6. Three ways to be misled
# Made activity, for which the answer is known, and what `similarity` says to it.

# %%
draw = torch.Generator().manual_seed(2)


def noise(*shape):
    return torch.randn(*shape, generator=draw)


def ask(x, y, **options):
    found = gbi.representation.similarity(x, y, **options)
    within = (
        "" if found.within is None else f"; within tasks {found.within.mean():z.2f}"
    )
    print(f"{options.get('measure', 'cka')}: {found.value:z.2f}{within}")
    for words in found.warnings:
        print("   warning:", words)


a = noise(1000, 64)
print("Equal but for a little noise: one says so, without a warning.")
ask(a, a + 0.1 * noise(1000, 64))

print("\nThe same, but one sample of 1000 went wrong.")
b = a + 0.1 * noise(1000, 64)
b[0] += 100
ask(a, b)

# %%
print("Unrelated within tasks, but both have the two tasks far apart.")
task = torch.arange(1000) % 2
apart = 20 * task.float().unsqueeze(-1)
ask(a + apart * noise(64), noise(1000, 64) + apart * noise(64), tasks=task)

# %%
print("Unrelated, 50 samples of 200 units.")
few, others = noise(50, 200), noise(50, 200)
ask(few, others)
ask(few, others, measure="procrustes")
print("With the samples of one of them shuffled:")
ask(few, others[torch.randperm(50, generator=draw)], measure="procrustes")
shape = gbi.representation.geometry(few)
print(f"rank {shape.rank:.0f} of 200 that there are")
print("   warning:", shape.warnings[0])

# %% [markdown]
# - **One sample** of 1000 takes CKA from .99 to .21. Two warnings: one direction decides, and
#   without 1 % of the samples the value is .99.
# - **Two means** make unrelated activity equal, 1.00. Leaving out samples does not help, since all
#   carry it. Only the value within tasks, 0.00, shows it, and the third warning says so.
# - **Few samples.** Debiased CKA is near 0, as it should be. Procrustes gives unrelated activity
#   .94, and the same for shuffled samples, which the warning asks to compare with. The rank cannot
#   exceed the number of samples.
#
# ## What to report
# Transfer and shared units, beside those with shuffled labels; similarity within tasks, with its
# warnings; rank beside the network's own start. A probe, if at all, beside that of the untrained
# network.
#
# **Next:** [Comparing models](comparing_models.ipynb) asks whether there is a task at all, and how
# sure the answer is.
