# %% [markdown]
# # Coming from Pyro: one model, enumerated by Pyro and inferred from its gradient
#
# After this lesson you can say what to change in a Pyro model with a discrete latent variable,
# which class of the library stands beside which tool of Pyro's, and when to use which.
#
# | Pyro | here | |
# |---|---|---|
# | `config_enumerate`, `TraceEnum_ELBO.compute_marginals` | `Enumeration()` | the same numbers |
# | `infer_discrete`, temperature 0 or 1 | `.mode()`, `.sample()` | the same |
# | `SVI` with `TraceEnum_ELBO`, z summed out | `GradientEM` | the same steps |
# | a guide for z, written and trained by you | `AutoTaskGuide(model)` | no parameters |
# | none | `OneStepGradient()` | two passes for any K |

# %%
import os

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate, infer_discrete
from pyro.poutine import trace

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
pyro.set_rng_seed(0)

# %% [markdown]
# ## The model, twice
# Each trial follows one of three lines. Pyro's way is a `Categorical`, whose value is an index. For
# the gradient the value has to be able to lie *between* tasks, so the site becomes a
# `OneHotCategorical` and indexing a matrix product; the mark `infer={"task": True}` says that it is
# a task. Pyro ignores the mark.

# %%
PRIOR, SIGMA = torch.tensor([0.5, 0.3, 0.2]), 0.3


def weights():
    start = torch.tensor([1.0, 0.2, -0.5]), torch.tensor([0.0, 0.5, 0.3])
    return pyro.param("slope", start[0].clone()), pyro.param("height", start[1].clone())


def by_index(u, y):
    slope, height = weights()
    with pyro.plate("trial", len(u)):
        z = pyro.sample("z", dist.Categorical(PRIOR))
        pyro.sample("y", dist.Normal(slope[z] * u + height[z], SIGMA), obs=y)


def model(u, y):
    slope, height = weights()
    with pyro.plate("trial", len(u)):
        z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer={"task": True})
        pyro.sample("y", dist.Normal(z @ slope * u + z @ height, SIGMA), obs=y)


z = torch.multinomial(PRIOR, 100 if FAST else 400, replacement=True)
u = 2 * torch.rand(len(z)) - 1
y = torch.tensor([1.5, 0.0, -1.0])[z] * u + torch.tensor([0.0, 1.0, -0.5])[z]
y = y + SIGMA * torch.randn(len(z))

# %% [markdown]
# ## Learn: the same steps
# With z summed out, Pyro's loss is minus the log evidence. Its gradient in the weights is that of
# E_q[log p(y, z)] at the exact posterior q (Fisher's identity), which is what `GradientEM` ascends.


# %%
def no_guide(u, y):
    """All of z is summed out."""


rate, steps = 0.02, 50 if FAST else 200
elbo = TraceEnum_ELBO(max_plate_nesting=1)
svi = SVI(config_enumerate(by_index), no_guide, pyro.optim.Adam({"lr": rate}), elbo)
for _ in range(steps):
    svi.step(u, y)
by_svi = [w.detach().clone() for w in weights()]

pyro.clear_param_store()
em = gbi.GradientEM(model, gbi.Enumeration(), torch.optim.Adam(weights(), lr=rate))
for _ in range(steps):
    em.step(u, y)
for name, theirs, ours in zip(("slope", "height"), by_svi, weights(), strict=True):
    print(
        f"{name}: SVI {theirs.numpy().round(4)}, "
        f"GradientEM {ours.detach().numpy().round(4)}"
    )
    assert torch.allclose(theirs, ours, atol=1e-5)

# %% [markdown]
# ## Infer: the same marginals
# Pyro tries all tasks at once in a new dimension on the left. `Enumeration` runs the model once for
# each task (or in chunks, `chunk_size`), so that the model need not broadcast. The marginals and
# the evidence agree to rounding, for both spellings of the model:

# %%
exact = gbi.Enumeration()(model, u, y)
for spelling in (by_index, model):
    marginal = elbo.compute_marginals(config_enumerate(spelling), no_guide, u, y)["z"]
    difference = (marginal.probs - exact.probs()).abs().max().item()
    assert difference < 1e-12
    loss = elbo.loss(config_enumerate(spelling), no_guide, u, y)
    assert abs(loss + exact.log_evidence.sum().item()) < 1e-9
    print(f"{spelling.__name__}: largest difference of a probability {difference:.0e}")

most_probable = infer_discrete(
    config_enumerate(by_index), first_available_dim=-2, temperature=0
)
assert torch.equal(
    trace(most_probable).get_trace(u, y).nodes["z"]["value"], exact.mode()
)

# %% [markdown]
# `infer_discrete` takes index sites only (Pyro 1.9 refuses a `OneHotCategorical`), and returns
# values; here the probabilities come with them, with `.mode()`, `.entropy()`, `.sample()` and a way
# to ArviZ.
#
# ## What Pyro does not have: one gradient step
# One forward and one backward pass at the point where all tasks are mixed alike, whatever K is. To
# first order it is biased for three tasks or more. To second order, for K - 1 more backward passes
# at most, it is exact here, since the mean is affine in z.

# %%
one_step, second = (
    gbi.OneStepGradient()(model, u, y),
    gbi.OneStepGradient(order=2)(model, u, y),
)
for posterior in (exact, one_step, second):
    found = gbi.metrics.agreement(exact, posterior)
    print(f"{posterior.method:22} {posterior.passes}, KL {found.kl:.4f} nats")
assert gbi.metrics.agreement(exact, second).kl < 1e-12

# %% [markdown]
# Log odds of each task against the mean over tasks, estimated against exact, a point for each trial
# and task:

# %%
figure = Figure(figsize=(8, 3.8), layout="constrained")
for ax, posterior in zip(
    figure.subplots(1, 2, sharey=True), (one_step, second), strict=True
):
    gbi.plots.log_odds(
        gbi.metrics.log_odds(exact, posterior), ax, title=posterior.method
    )
figure

# %% [markdown]
# ## SVI with a guide that needs no training
# `AutoTaskGuide` infers z anew at each call, on the data that it is given. In SVI the ELBO falls
# short of the log evidence by KL(guide || posterior), the price of an inexact guide; with an exact
# one there is none.

# %%
for posterior in (one_step, second):
    guide = gbi.AutoTaskGuide(model, lambda *_, posterior=posterior: posterior)
    loss = elbo.loss(config_enumerate(model), config_enumerate(guide), u, y)
    gap = loss / len(u) + exact.log_evidence.mean().item()
    assert abs(gap - gbi.metrics.agreement(exact, posterior).reverse_kl) < 1e-6
    print(f"{posterior.method:22} ELBO {gap:.4f} nats a trial below the log evidence")

pyro.clear_param_store()
guide = gbi.AutoTaskGuide(model, gbi.OneStepGradient(order=2))
svi = SVI(model, guide, pyro.optim.Adam({"lr": rate}), Trace_ELBO())
losses = [svi.step(u, y) / len(u) for _ in range(steps)]
print(
    f"SVI with z drawn from the guide: loss {losses[0]:.2f}, "
    f"later {losses[-1]:.2f} nats a trial"
)

# %% [markdown]
# ## A network that does not broadcast
# Concatenation is the usual way to give a network its task. With a new dimension on the left of z
# only, it fails; one task after the other works, and so does the gradient.

# %%
network = torch.nn.Sequential(
    torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
)


def by_network(u, y):
    with pyro.plate("trial", len(u)):
        z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer={"task": True})
        mean = network(torch.cat([u.unsqueeze(-1), z], -1)).squeeze(-1)
        pyro.sample("y", dist.Normal(mean, SIGMA), obs=y)


try:
    elbo.compute_marginals(config_enumerate(by_network), no_guide, u, y)
except RuntimeError as error:
    print("Pyro:", str(error).splitlines()[0])
print("here:", gbi.Enumeration()(by_network, u, y).probs().shape)

# %% [markdown]
# ## When to use which
#
# - **Pyro's enumeration:** discrete variables that depend on each other in other ways than by
#   nested plates or a chain, and variables that are no task.
# - **`Enumeration`, `BayesFilter`:** few tasks, an exact answer, a network that does not broadcast;
#   tasks that switch over time.
# - **`OneStepGradient`:** many tasks, or a network that is costly to run: two passes in place of K.
#   Check it by *Can I trust it?*. The likelihood has to be differentiable in z.
# - **`AutoTaskGuide`:** where z has to be drawn: `SVI`, `Predictive`, `importance_correction`.
#
# **Next:** [Your own model](your_own_model.ipynb) shows where the bias of one step comes from and
# how to calibrate it.
