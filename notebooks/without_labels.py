# %% [markdown]
# # Without labels: find the tasks, count them, and notice when there are none
#
# After this lesson you can train a network whose tasks nobody knows, read what the library reports
# when that goes wrong, and choose the number of tasks.

# %%
import os
import textwrap
import warnings

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure

import gbi_pyro as gbi

# %matplotlib inline
FAST = os.environ.get("GBI_PYRO_FAST") == "1"  # less of all, to test the lesson
torch.set_num_threads(1)
draw = torch.Generator().manual_seed(0)


def say(words):
    print(textwrap.fill(words, 88, subsequent_indent="       "))


# %% [markdown]
# ## The data
# In each session a stimulus `u` is answered by `y`, by one of three rules that change every twenty
# trials or so. Beside them a control: sessions in which there is only one rule.

# %%
HAZARD, NOISE = 1 / 20, 0.2
THREE = [torch.sin, lambda u: -torch.sin(u), torch.cos]


def sessions(rules, n=8, length=80):
    u = 6 * torch.rand(n, length, generator=draw) - 3
    changes = torch.rand(n, length, generator=draw) < HAZARD
    to = torch.randint(1, max(2, len(rules)), (n, length), generator=draw)
    z = (torch.where(changes, to, 0).cumsum(1)) % len(rules)
    y = (
        torch.stack([rule(u) for rule in rules], -1)
        .gather(-1, z.unsqueeze(-1))
        .squeeze(-1)
    )
    return u, y + NOISE * torch.randn(n, length, generator=draw), z


u, y, _ = sessions(THREE)
held_u, held_y, held_z = sessions(THREE)
control, held_control = sessions(THREE[:1])[:2], sessions(THREE[:1])[:2]

# %% [markdown]
# ## Train
# `GradientEM` alternates: infer the tasks with the weights fixed, move the weights with the
# inferred tasks. A `TaskChain` says that a task lasts; how long is learned too.
# One task is two of which the second is forbidden, so that all models are of the same kind.


# %%
class Answers(torch.nn.Module):
    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        layers = (
            torch.nn.Linear(1 + num_tasks, 32),
            torch.nn.Tanh(),
            torch.nn.Linear(32, 1),
        )
        self.network = torch.nn.Sequential(*layers)
        self.log_sigma = torch.nn.Parameter(torch.tensor(0.5).log())
        self.num_tasks = num_tasks

    def mean(self, u, z):
        return self.network(torch.cat([u.unsqueeze(-1), z], -1)).squeeze(-1)

    def forward(self, u, y):
        with (
            pyro.plate("session", len(u), dim=-2),
            pyro.plate("trial", u.shape[1], dim=-1),
        ):
            prior = dist.OneHotCategorical(torch.ones(self.num_tasks))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("y", dist.Normal(self.mean(u, z), self.log_sigma.exp()), obs=y)


def untrained(K, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Answers(max(K, 2))
    chain = gbi.TaskChain.sticky(
        max(K, 2), HAZARD, learn_transition="hazard", time="trial"
    )
    chain = chain.without([1]) if K == 1 else chain
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    return gbi.GradientEM(model, gbi.Enumeration(), optimiser, prior=chain)


def train(K, *data):
    """Train from two starts, keep the better one, and print what is reported."""
    with warnings.catch_warnings():  # of a collapse, which the report says too
        warnings.simplefilter("ignore", gbi.learning.CollapseWarning)
        found = gbi.learning.best_of(
            lambda seed: untrained(K, seed), range(2), 20 if FAST else 120, *data
        )
    objectives = " and ".join(f"{nats:.0f}" for nats in found.objectives.values())
    say(f"K = {K}: {objectives} nats from two starts; {found.report}")
    return found.best


KS = (1, 2, 3) if FAST else (1, 2, 3, 4)
trained = {K: train(K, u, y) for K in KS}

# %% [markdown]
# ## How many tasks?
# A fourth task is not reported: two of the four have come to share a rule, and still differ a
# little. Sessions that were held out decide: the smallest K within one standard error of the best.


# %%
def choose(trained, *held_out):
    choice = gbi.learning.choose_num_tasks(
        lambda K: trained[K], trained, *held_out
    ).choice
    scores = ", ".join(f"{K}: {nats:.1f}" for K, nats in choice.scores.items())
    say(
        f"{choice.num_tasks} task(s). Nats per held-out session, by K: {scores} "
        f"(standard error of the best {choice.standard_error:.1f})"
    )
    return choice


choice = choose(trained, held_u, held_y)
em = trained[3]

# %% [markdown]
# ## Does it find tasks where there are none?
# The control has one rule. A method that found two in it could not be believed above.

# %%
trained_on_control = {K: train(K, *control) for K in (1, 2)}
choice_of_control = choose(trained_on_control, *held_control)

# %% [markdown]
# ## What a collapse looks like
# A start from which no task can be found: the network ignores its task input at first, so all tasks
# explain every trial alike, and nothing ever tells them apart. `GradientEM` looks for this every 50
# steps (here sooner) and warns once.

# %%
ignoring = untrained(3, seed=0)
ignoring.check_every = 20
with torch.no_grad():
    ignoring.model.network[0].weight[:, 1:] = 0.0
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(20):
        ignoring.step(u, y)
for warning in caught:
    say(f"{warning.category.__name__}: {warning.message}")

# %% [markdown]
# Other reports name tasks that explain less than 1 % of the data, tasks that say the same, and
# tasks that last single steps; `em.prune(...)` forbids them. A recurrent network can also follow
# the tasks by its own memory; then the report says so.
#
# ## Give the tasks their names
# Tasks come in any order. A few labels are enough to name them: here those of the first session.

# %%
posterior = em.infer(held_u, held_y)
labels = torch.full_like(held_z, -1)
labels[0] = held_z[0]
names = gbi.learning.match_labels(posterior.probs(), labels)
log_probs = posterior.logits()[..., names[:-1]]  # the tasks in the order of the labels
right = gbi.metrics.accuracy(log_probs[1:].flatten(0, 1), held_z[1:].flatten())
print(f"accuracy on the other held-out sessions: {right:.3f}")
print(f"a rule lasts {1 / em.prior.hazard:.0f} trials")

# %% [markdown]
# On the left what the network has learned of each rule (lines) against the truth (grey), in the
# middle the evidence of held-out sessions less that of the best K, on the right the posterior over
# the tasks of a held-out session (dark: probable), with the true ones marked.

# %%
figure = Figure(figsize=(12, 3.2), layout="constrained")
left, middle, right = figure.subplots(1, 3)
line = torch.linspace(-3, 3, 61)
for k, rule in enumerate(THREE):
    z = torch.nn.functional.one_hot(names[k], 3).float().expand(len(line), -1)
    left.plot(line, rule(line), color="0.8", linewidth=5)
    left.plot(
        line,
        em.model.mean(line, z).detach(),
        color=f"C{k}",
        linestyle=("-", "--", "-.")[k],
    )
left.set(xlabel="stimulus u", ylabel="expected answer y")
for label, found, style in (
    ("three rules", choice, "ko-"),
    ("one rule", choice_of_control, "s--"),
):
    behind = [nats - max(found.scores.values()) for nats in found.scores.values()]
    middle.plot(list(found.scores), behind, style, label=label)
middle.set(
    xlabel="number of tasks K", ylabel="nats per session less the best", xticks=KS
)
middle.legend(frameon=False)
gbi.plots.task_heatmap(log_probs[1].exp(), held_z[1], right, xlabel="trial")
right.set_ylabel("task")
figure

# %% [markdown]
# **Next:** [Comparing models](comparing_models.ipynb) asks the same of a single stream, by what
# each step costs before it is learned. For an endless stream there is `OnlineEM`.
