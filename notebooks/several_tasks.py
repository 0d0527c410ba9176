# %% [markdown]
# # Several tasks at once: when does one gradient step suffice, and what to do when it does not
#
# After this lesson you can infer several coupled tasks jointly, say when one gradient step is
# enough, and choose between three corrections of it. All problems here have an exact answer.
#
# 1. One step is a product: it loses what tasks say of each other.
# 2. Its errors grow with the data.
# 3. The curvature across sites holds the dependence.
# 4. The gradient ranks well and weighs badly: score its best few exactly.
# 5. Convergence is not a virtue, and a claim needs its control.

# %%
import os
import time

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
CASES = 20 if FAST else 100
GREY, DARK, ACCENT = "0.6", "0.2", "C3"


def cases(problem, n=CASES):
    """Draw data, and find their exact posterior."""
    drawn = problem.draw(n, torch.Generator().manual_seed(100))
    return drawn, problem.posterior(drawn)


def kl(exact, found):
    """KL(exact || found) of all tasks together, the mean over cases, in nats."""
    return gbi.metrics.agreement(exact, found).kl


# %% [markdown]
# ## 1. One step is a product
# Two switches are on or off, and only their sum is seen, with noise. A sum of one means that one
# switch is on, and says nothing of which.


# %%
def switches(x):
    half = dist.OneHotCategorical(torch.ones(2))
    with pyro.plate("case", len(x)):
        left = pyro.sample("left", half, infer={"task": True})
        right = pyro.sample("right", half, infer={"task": True})
        pyro.sample("x", dist.Normal(left[..., 1] + right[..., 1], 0.3), obs=x)


x = torch.tensor([1.0])
exact = gbi.Enumeration()(switches, x)
one_step = gbi.OneStepGradient()(switches, x)
joint = gbi.SecondOrderJoint()(switches, x)
for name, q in {"exact": exact, "one step": one_step, "second order": joint}.items():
    print(f"{name:13}", q.table().log_probs[0].exp().round(decimals=3).tolist())

# %% [markdown]
# Rows are the left switch, columns the right one. All three have the same marginals, one half each.
# One step multiplies them; the exact posterior puts everything on "one of the two". A posterior
# over several sites is a *joint* one where the method finds it: `q.joint`, which `q.sample`, guides
# and exports follow; `q.table()` writes it out, as a product where there is none.
#
# ## 2. Errors of one step grow with the data
# In the *hyperteacher* the task chooses one or two of six modules of a network with a tanh. In the
# *meta-HMM* four tasks choose the transitions and emissions of a hidden Markov model. Below: one
# step against the prior, which has seen nothing, as the data grow.

# %%
EXAMPLES, STEPS = (1, 4, 16), (2, 10, 40)
grown = {
    "hyperteacher, examples": {
        n: gbi.problems.hyperteacher(0, num_examples=n) for n in EXAMPLES
    },
    "meta-HMM, symbols": {n: gbi.problems.meta_hmm(0, length=n) for n in STEPS},
}
fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True, layout="constrained")
for ax, (name, family) in zip(axes, grown.items(), strict=True):
    rows = []
    for problem in family.values():
        drawn, exact = cases(problem)
        prior = {n: s.log_prior for n, s in exact.sites.items()}
        nothing = gbi.TaskPosterior(prior, exact.sites, "prior")
        found = gbi.OneStepGradient()(problem.model, *drawn.args)
        rows.append((kl(exact, nothing), kl(exact, found)))
        before, after = rows[-1]
        print(f"{problem.name:16} prior {before:.2f}, one step {after:.2f}")
    blind, step = zip(*rows, strict=True)
    ax.plot(list(family), blind, color=GREY, ls="--", marker="s", label="prior")
    ax.plot(list(family), step, color=DARK, marker="o", label="one step")
    ax.set_xscale("log")
    ax.set_xticks(list(family), [str(n) for n in family])
    ax.minorticks_off()
    ax.set_xlabel(name)
axes[0].set_ylabel("KL(exact || it), nats")
axes[0].legend()
plt.show()

# %% [markdown]
# **Finding 1.** One step is exact for two tasks with Gaussian noise and good while data are few.
# Where the log joint is curved its error is an error of extrapolation, which grows with every
# observation: on the hyperteacher it ends *worse than the prior*.
#
# ## 3. One more derivative: the joint posterior from one run
# The curvature across two sites says how they depend on each other. Gradient and curvature at the
# middle make a pairwise Markov random field over the tasks, which is exact wherever factors join
# two tasks at most. Here are eight coupled binary tasks, then forty: $2^{40}$ combinations, which
# nobody can enumerate.

# %%
for name in ("graph-8-chain", "graph-8-frustrated", "metahmm-24-T10"):
    problem = gbi.problems.PROBLEMS[name](0)
    drawn, exact = cases(problem)
    for infer in (gbi.OneStepGradient(), gbi.SecondOrderJoint()):
        found = infer(problem.model, *drawn.args)
        passes = found.passes
        print(
            f"{name:19} {found.method:20} KL {kl(exact, found):.4f}"
            f"  passes {passes.forward} + {passes.backward}"
        )

forty = gbi.problems.PROBLEMS["chain-40"](0, dtype=torch.float64)
drawn, exact = cases(forty, 20)
found = gbi.SecondOrderJoint()(forty.model, *drawn.args)
step = gbi.OneStepGradient()(forty.model, *drawn.args)
names = list(exact.log_probs)
truth = torch.stack([exact.probs(n)[0, 1] for n in names])
by_step = torch.stack([step.probs(n)[0, 1] for n in names])
by_joint = torch.stack([found.probs(n)[0, 1] for n in names])
worst = max((exact.probs(n) - found.probs(n)).abs().max().item() for n in names)
print(f"forty tasks: {len(found.settings['edges'])} edges read off the model")
print(f"largest error of a marginal {worst:.1e}, passes {tuple(found.passes)}")

fig, ax = plt.subplots(figsize=(8, 2.6), layout="constrained")
ax.plot(truth, color="0.75", lw=6, label="exact")
ax.plot(by_step, color=DARK, lw=1, ls="--", marker="o", ms=3, label="one step")
ax.plot(by_joint, color=ACCENT, lw=1.2, label="second order, joint")
ax.set(xlabel="site", ylabel="probability of task 1", ylim=(-0.05, 1.05))
ax.legend(loc="upper center", ncol=3, bbox_to_anchor=(0.5, 1.2))
plt.show()

# %% [markdown]
# **Finding 2.** What is missing between coupled sites is one more derivative. On pairwise models
# the second-order joint is exact at any number of sites; on the meta-HMM, whose tasks multiply, it
# is an approximation, and better than one step.
#
# It refuses where the expansion does not hold, after scoring a few combinations exactly:

# %%
problem = gbi.problems.PROBLEMS["hyperteacher-n16"](0)
drawn, exact = cases(problem)
try:
    gbi.SecondOrderJoint()(problem.model, *drawn.args)
except gbi.TaskSiteError as error:
    print(str(error)[:230], "...")

# %% [markdown]
# ## 4. A gradient ranks well and weighs badly
# One step on the hyperteacher with sixteen examples is useless as a posterior. As a *shortlist* it
# is not: `Rescored(base, m)` scores the m most probable combinations of the base exactly, and
# leaves the others as they are.

# %%
truth = drawn.tasks["z"]
numbers = (2, 4, 8, 12, 16, 21)
one_step = gbi.OneStepGradient()
rows = [(0, one_step(problem.model, *drawn.args))]
for m in numbers:
    infer = gbi.Rescored(one_step, num_scored=m, warn=False)
    rows.append((m, infer(problem.model, *drawn.args)))
error = [max(kl(exact, q), 1e-4) for _, q in rows]
right = [(q.mode() == truth).double().mean().item() for _, q in rows]
print("scored  ", [m for m, _ in rows])
print("KL      ", [round(e, 3) for e in error])
print("accuracy", [round(r, 2) for r in right])

fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
axes[0].plot([m for m, _ in rows], error, color=DARK, marker="o")
axes[0].set(yscale="log", xlabel="combinations scored")
axes[0].set_ylabel("KL(exact || it), nats (1e-4 or less)")
axes[1].plot([m for m, _ in rows], right, color=DARK, marker="o", label="one step + m")
best = (exact.mode() == truth).double().mean().item()
axes[1].axhline(best, color=GREY, lw=4, zorder=0, label="exact posterior")
axes[1].set(ylabel="accuracy", xlabel="combinations scored", ylim=(0, 1.05))
axes[1].legend(loc="lower right")
plt.show()

# %% [markdown]
# **Finding 3.** Use one step as a shortlist, not as a posterior, wherever the network is not affine
# in the task. The eight best of 21 name the task about as often as the exact posterior does. How
# good a list is shows in its own settings: `mass_beyond`, the probability that may lie beyond it,
# of which a `ShortlistWarning` warns.
#
# ## 5. Convergence is not a virtue, and a claim needs its control
# Iterating ascends the log joint at a mixture of tasks, plus the entropy. Where the log joint is
# linear in each task this is mean field, the best product in KL(product || exact); elsewhere, and a
# Gaussian's mean is enough for that, it is neither. What it passes on the way can be better than
# where it ends, which is too sure of one of several explanations. Left, gradient ascent by Adam on
# eight coupled tasks; right, sweeps over the sites of the meta-HMM.

# %%
chain, hmm = (
    gbi.problems.PROBLEMS["graph-8-chain"](0),
    gbi.problems.PROBLEMS["metahmm-24-T40"](0),
)
ways = {
    "Adam steps": (
        chain,
        lambda n: gbi.IterativeGradient(n, 0.2, "adam"),
        (10, 20, 50, 100, 200),
    ),
    "sweeps": (
        hmm,
        lambda n: gbi.inference.CoordinateGradient(sweeps=n, tolerance=0),
        (1, 2, 3, 5, 10, 30),
    ),
}
fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for ax, (name, (problem, make, numbers)) in zip(axes, ways.items(), strict=True):
    drawn, exact = cases(problem)
    found = [
        gbi.metrics.agreement(exact, make(n)(problem.model, *drawn.args))
        for n in numbers
    ]
    product = gbi.TaskPosterior(exact.log_probs, exact.sites, "exact marginals")
    floor = kl(exact, product)
    print(problem.name, "KL(exact || product)", [round(f.kl, 2) for f in found])
    print(" " * 14, "KL(product || exact)", [round(f.reverse_kl, 2) for f in found])
    ax.plot(
        numbers,
        [f.kl for f in found],
        color=DARK,
        marker="o",
        label="KL(exact || product)",
    )
    ax.plot(
        numbers,
        [f.reverse_kl for f in found],
        color=GREY,
        marker="s",
        ls="--",
        label="KL(product || exact)",
    )
    ax.axhline(floor, color="0.8", lw=4, zorder=0, label="product of exact marginals")
    ax.set(xscale="log", xlabel=name, title=problem.name, ylim=(0, None))
    ax.set_xticks(numbers, [str(n) for n in numbers])
    ax.minorticks_off()
axes[0].set_ylabel("nats")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
plt.show()

# %% [markdown]
# **Finding 4.** More iterations are not a better forecast: the best product by KL(exact || product)
# is that of the exact marginals, and iterating goes past it or away from it.
#
# And before any of these is worth using, ask what the plainest exact method costs. Passes are not
# time: enumeration tries combinations side by side.

# %%
rows = {}
for name in ("metahmm-24-T40", "graph-8-chain", "metahmm-256-T40"):
    problem = gbi.problems.PROBLEMS[name](0)
    drawn, exact = cases(problem)
    for infer in (
        gbi.OneStepGradient(),
        gbi.SecondOrderJoint(check=False),
        gbi.Rescored(gbi.OneStepGradient(), 16, warn=False),
        gbi.Enumeration(chunk_size=64),
    ):
        infer(problem.model, *drawn.args)
        start = time.process_time()
        q = infer(problem.model, *drawn.args)
        seconds = time.process_time() - start
        rows[name, q.method] = (sum(q.passes[:2]), seconds, kl(exact, q))
for (name, method), (passes, _, error) in rows.items():
    print(f"{name:16} {method:24} passes {passes:4}  KL {error:.3f}")

fig, axes = plt.subplots(1, 3, figsize=(8, 2.8), sharey=True, layout="constrained")
markers = {"one step": "o", "second order, joint": "D", "one step, 16 rescored": "^"}
for ax, name in zip(axes, dict.fromkeys(n for n, _ in rows), strict=True):
    for (problem_name, method), (_, seconds, error) in rows.items():
        if problem_name == name:
            marker = markers.get(method, "s")
            ax.plot(
                1e3 * seconds,
                max(error, 1e-4),
                marker,
                color=DARK,
                mfc="none",
                label=method,
            )
    ax.set(xscale="log", yscale="log", title=name, xlabel="processor ms, 100 cases")
    ax.set_xlim(4, 600)
axes[0].set_ylabel("KL(exact || it), nats (1e-4 or less)")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=4)
plt.show()

# %% [markdown]
# **Finding 5.** Below a few hundred combinations enumeration by chunks is the cheapest exact
# answer. Other claims meet their controls in `python -m studies bench`: a learned refiner does as
# well without gradients on the toy, and a flow whose horizon is learned no better than one step at
# a fitted temperature.
#
# ## What to use
#
# | if | use |
# |---|---|
# | few combinations, a likelihood that broadcasts | `Enumeration(chunk_size=64)` |
# | one site, affine or Gaussian with two tasks | `OneStepGradient()` |
# | many sites that meet in pairs, any number of combinations | `SecondOrderJoint()` |
# | a network that is not affine, hundreds of combinations | `Rescored(OneStepGradient(), 16)` |
# | tasks that multiply | `Rescored(SecondOrderJoint(), 16)` |
# | none of these holds | `TaskGibbs()`, and its floor beside it |
#
# **Next:** [can_i_trust_it](can_i_trust_it.ipynb) checks such a posterior without an exact one, and
# `python -m studies bench` compares all methods on all problems, and on yours.
