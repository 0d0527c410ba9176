"""Task use: how much a network gains from its task, and what knowing the task is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro.inference.chain import BayesFilter
from gbi_pyro.inference.chain_posterior import ChainPosterior
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.logjoint import relaxed_log_joint
from gbi_pyro.posterior import entropy
from gbi_pyro.relax import Model
from gbi_pyro.sites import unknown_site


class TaskUse(NamedTuple):
    """How much a network uses its task.

    Attributes:
        gain: log p(x | true task) - log p(x | maximum entropy), nats per element: near 0
            where the task is ignored.
        probe: accuracy of a linear probe of the task from the latent, in [0, 1]: near 1
            where the latent holds the task already.
    """

    gain: float
    probe: float


class TaskTransfer(NamedTuple):
    """What knowing the task is worth, in nats per step.

    The tasks given are a sample: where they switch rarely, ``achieved`` has a large sampling error
    and may exceed ``ceiling``. Compare models on the same data.

    Attributes:
        achieved: log p(x_t | x_<t, z_t) - log p(x_t | x_<t) of the tasks given, the mean.
        believed: the same by the model's own account, H(z_t | x_<t) - H(z_t | x_1..t), whose
            variance is less.
        ceiling: H(z_t | x_<t), the most that ``believed`` can be.
        num_steps: how many steps were averaged.
    """

    achieved: float
    believed: float
    ceiling: float
    num_steps: int


def task_gain(model: Model, values: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> float:
    """Return the mean gain in log likelihood from the true tasks over maximum entropy.

    (log p(x | Z = z) - log p(x | Z = u)) / N, over the N elements of the task sites.

    It says whether the task is wired in. Where it is 0 although the task matters, something else in
    the input says the same. It overstates what the task is worth to know, since no forecast that
    does not know the task would take the middle point: see ``task_transfer``. A network trained on
    one constant task gains too, since it was never trained at the middle; compare with shuffled
    tasks.

    Args:
        model: a Pyro model with task sites, in eval mode.
        values: the true tasks by site, one-hot, ``batch_shape + (K,)``.
        args, kwargs: what the model takes.

    Returns:
        Nats per element.

    Raises:
        TaskSiteError: for unknown sites, or values that do not fit.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("trial", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([-1.0, 1.0]), 1.0), obs=x)
    >>> task_gain(model, {"z": torch.eye(2)}, torch.tensor([-1.0, 1.0]))  # 1 / 2 sigma^2
    0.5
    """
    with torch.no_grad():
        known = relaxed_log_joint(model, values, *args, **kwargs)
        middle = {name: torch.full_like(v, 1 / v.shape[-1]) for name, v in values.items()}
        unknown = relaxed_log_joint(model, middle, *args, **kwargs)
    elements = max(v.shape[:-1].numel() for v in values.values())
    return ((known.likelihood - unknown.likelihood) / elements).item()


def task_transfer(
    model: Model,
    values: Mapping[str, Tensor],
    *args: Any,
    chain: TaskChain | None = None,
    time: str | None = None,
    **kwargs: Any,
) -> TaskTransfer:
    """Return the nats per step that knowing the task is worth, exactly.

    I(z_t; x_t | x_<t) = E[log p(x_t | x_<t, z_t) - log sum_k p(z_t = k | x_<t) p(x_t | x_<t, k)]:
    the transfer entropy of the task (Schreiber 2000, Measuring information transfer, Phys. Rev.
    Lett. 85), with the task predicted by the Bayes filter. Tasks that say nothing achieve 0, and
    wrong ones less. Of a recurrent network give ``stepwise(network, x)``.

    Args:
        model: a Pyro model with one task site.
        values: its tasks, one-hot, ``batch_shape + (K,)``, by the name of the site.
        args, kwargs: what the model takes.
        chain: the prior over tasks along time; without it elements are independent, and the task is
            predicted by its prior.
        time: the name of the plate over time.

    Returns:
        Means over the steps that are no padding.

    Raises:
        TaskSiteError: for several sites or an unknown one; see ``Enumeration``, ``BayesFilter``.
        ValueError: for values of another shape.

    >>> import pyro, pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("trial", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([-9.0, 9.0]), 1.0), obs=x)
    >>> found = task_transfer(model, {"z": torch.eye(2)}, torch.tensor([-9.0, 9.0]))
    >>> round(found.achieved, 4), round(found.ceiling, 4)  # all that there is to know: log 2
    (0.6931, 0.6931)
    """
    infer = Enumeration() if chain is None else BayesFilter(Enumeration(), chain, time=time)
    with torch.no_grad():
        found = infer(model, *args, **kwargs)
    name = found.site_name()
    if list(values) != [name]:
        raise unknown_site(next((n for n in values if n != name), ""), [name])
    site, filtered = found.sites[name], found.logits().double()
    tasks = values[name]
    if tasks.shape != filtered.shape:
        raise ValueError(
            f"values[{name!r}] should be one-hot tasks {tuple(filtered.shape)}; got "
            f"{tuple(tasks.shape)}"
        )
    if isinstance(found, ChainPosterior):
        predicted = found.log_predicted.double()
    else:
        predicted = site.log_prior.double()
    # log p(x_t | z_t, past) - log p(x_t | past) is what the step adds to the log odds of its task.
    gain = torch.where(tasks > 0, tasks * (filtered - predicted), 0.0).sum(-1)
    real = ~found.padding()
    before, after = entropy(predicted)[real].mean().item(), entropy(filtered)[real].mean().item()
    return TaskTransfer(gain[real].mean().item(), before - after, before, int(real.sum()))
