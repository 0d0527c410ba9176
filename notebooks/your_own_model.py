# %% [markdown]
# # Your own model: which task is going on?
#
# After this lesson you can mark the task of a Pyro model of ten lines, train it, infer the task in
# three ways, and correct what goes wrong with three tasks or more.

# %%
import os

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The model
# A task decides which of three arcs a point lies on, with noise; where on the arc is an input `u`.
# The task enters the network by concatenation, so that it can be any point of the simplex.


# %%
class Arcs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)
        self.network = torch.nn.Sequential(*layers)

    def forward(self, u, x, z=None):
        with pyro.plate("point", len(x)):
            prior = dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5]))
            z = pyro.sample("z", prior, obs=z, infer={"task": True})
            mean = self.network(torch.cat([u, z], -1))
            pyro.sample("x", dist.Normal(mean, 0.4).to_event(1), obs=x)


def arcs(n):
    z = torch.multinomial(
        torch.tensor([0.2, 0.3, 0.5]), n, replacement=True, generator=draw
    )
    u = torch.rand(n, 1, generator=draw)
    angle = 3.0 * u[:, 0] + 0.8 * z
    x = torch.stack([angle.cos(), angle.sin()], -1) + 0.4 * torch.randn(
        n, 2, generator=draw
    )
    return u, x, torch.nn.functional.one_hot(z, 3).float()


# %% [markdown]
# ## Train it with the task known: the weight update
# `clamped_loss` is -log p(x, z) per point, with the task given. Weight decay keeps the
# network nearly affine between the corners of the simplex, which one gradient step from its middle
# relies on.

# %%
with torch.random.fork_rng():  # the same first weights at every reading
    torch.manual_seed(0)
    model = Arcs()
optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.3)
for _ in range(200 if FAST else 500):
    loss = gbi.clamped_loss(model, *arcs(256))
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
print(f"-log p(x, z) after training: {loss.item():.3f} nats per point")

# %% [markdown]
# ## Infer the task where it is not known
# One gradient step costs one forward and one backward pass, whatever the number of tasks K is;
# enumeration is exact and costs K forward passes.

# %%
u, x, z = arcs(500 if FAST else 2000)
exact = gbi.Enumeration()(model, u, x)
one_step = gbi.OneStepGradient()(model, u, x)
for posterior in (exact, one_step):
    accuracy = (posterior.mode() == z.argmax(-1)).float().mean().item()
    print(f"{posterior.method:12} {posterior.passes}, accuracy {accuracy:.3f}")
print(
    f"KL(exact || one step) = "
    f"{gbi.metrics.agreement(exact, one_step).kl:.3f} nats per point"
)

# %% [markdown]
# ## What goes wrong with three tasks or more
# The network is not to blame. Take means that are affine in the task, K of them evenly on a line:
# exact inference charges task k with the squared distance of its mean from the middle of all,
#
# $$ \log p(x \mid k) = g_k - \frac{|\mu_k - \bar\mu|^2}{2 \sigma^2} + \text{const}, $$
#
# and the gradient g alone does not. With two tasks the distances are equal and drop out; that is
# how two tasks hide the problem.


# %%
def line(x, means):
    with pyro.plate("point", len(x)):
        z = pyro.sample(
            "z", dist.OneHotCategorical(torch.ones(len(means))), infer={"task": True}
        )
        pyro.sample("x", dist.Normal(z @ means, 0.4), obs=x)


for K in (2, 3, 5):
    means = 0.6 * (torch.arange(K) - (K - 1) / 2)
    on_line = means[torch.randint(K, (1000,), generator=draw)]
    on_line = on_line + 0.4 * torch.randn(1000, generator=draw)
    truth, step = (
        infer(line, on_line, means)
        for infer in (gbi.Enumeration(), gbi.OneStepGradient())
    )
    charge = means.square() / (2 * 0.4**2)  # the middle of all is zero
    corrected = (step.logits() - charge).log_softmax(-1)
    print(
        f"K = {K}: KL(exact || one step) = "
        f"{gbi.metrics.agreement(truth, step).kl:.3f} nats, "
        f"with the charge {gbi.metrics.agreement(truth.logits(), corrected).kl:.3f}"
    )

# %% [markdown]
# One step of the network above errs in the same way. It favours the tasks that lie far from the
# middle, the first and the last:

# %%
excess = (one_step.logits() - exact.logits()).mean(0)
print(
    "log q(one step) - log q(exact), mean by task:",
    (excess - excess.mean()).numpy().round(2),
)

# %% [markdown]
# ## Calibrate
# A temperature and three offsets, fitted once on other data, remove the part of the bias that is
# the same for every point; applying them costs nothing. Second order computes the bias anew for
# each point, with two more backward passes.

# %%
other_u, other_x, _ = arcs(500 if FAST else 2000)
calibration = gbi.calibrate(
    gbi.OneStepGradient()(model, other_u, other_x),
    gbi.Enumeration()(model, other_u, other_x),
)
calibrated = gbi.OneStepGradient(calibration=calibration)(model, u, x)
second = gbi.OneStepGradient(order=2)(model, u, x)
for posterior in (one_step, calibrated, second):
    found = gbi.metrics.agreement(exact, posterior)
    print(
        f"{posterior.method:24} KL {found.kl:.3f} nats, "
        f"same task {found.argmax_agreement:.3f}"
    )

# %% [markdown]
# ## Look
# Log odds of task 1 over task 0, against the exact ones. One step shifts them against task 1, which
# lies in the middle; calibration shifts them back; second order does so point by point.

# %%
figure = Figure(figsize=(12, 4), layout="constrained")
axes = figure.subplots(1, 3, sharey=True)
for ax, posterior in zip(axes, (one_step, calibrated, second), strict=True):
    odds = [q.logits()[:, 1] - q.logits()[:, 0] for q in (exact, posterior)]
    gbi.plots.binary_log_odds(*odds, ax, title=posterior.method)
figure

# %% [markdown]
# **Next:** [Your data](your_data.ipynb) does the same with trials from a CSV file. [Coming from
# Pyro](coming_from_pyro.ipynb) sets it beside Pyro's own enumeration. [Can I trust
# it?](can_i_trust_it.ipynb) checks a posterior step by step.
