"""An amortised recogniser: a network that maps the data to the task posterior in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from gbi_pyro._arrays import UNKNOWN, check_labels
from gbi_pyro.inference._amortised import Network, check_output, only_site, read
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSite, TaskSiteError, no_task_sites, read_task_site


@dataclass(frozen=True, eq=False)
class Recogniser:
    r"""Infer the task by a network that was trained to recognise it.

        log q(z = k | x) = log_softmax_k(a_k(x) + log pi_k)

    with a the network and pi the model's prior: the network says what the data add to the prior,
    so a forbidden task stays forbidden, and the same network serves inside ``BayesFilter``. At use
    the model's likelihood is not asked; in training it may be (``reverse_kl_loss``).

    Args:
        network: a, called with what the model is called with; returns ``batch_shape + (K,)``. In
            eval mode at use, if it has one.

    Calling it as ``recogniser(model, *args)`` returns a ``TaskPosterior``: one forward pass of the
    network, and one run of the model that reads its prior and counts as a check. The network is a
    plain torch module with an optimiser of its own; the losses below are what it descends.

    Raises:
        TaskSiteError: for a model without a task site, or with several.
        ValueError: for what the network returns, if it does not fit.

    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=x)
    >>> exact = Recogniser(lambda x: torch.stack([-(x**2), -((x - 1) ** 2)], -1) / 2)
    >>> exact(model, torch.tensor([0.5, 1.5])).probs()  # odds 1, and e
    tensor([[0.5000, 0.5000],
            [0.2689, 0.7311]])
    """

    network: Network

    def __post_init__(self) -> None:
        if not callable(self.network):
            raise TypeError(f"network should be callable, got a {type(self.network).__name__}")

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task site of ``model`` called with ``args`` and ``kwargs``."""
        site, counts, passes = only_site(model, args, kwargs)
        return TaskPosterior(
            {site.name: _log_q(site, read(self.network, args, kwargs))},
            {site.name: site},
            method="recogniser",
            passes=passes._replace(forward=passes.forward + 1),
            num_observations={site.name: counts},
        )

    def log_prob(self, site: TaskSite, *args: Any, **kwargs: Any) -> Tensor:
        """Return log q(z | x), ``batch_shape + (K,)``, with its gradient in the network's weights.

        Args:
            site: whose prior and shape to take.
            args, kwargs: what the network takes.
        """
        return _log_q(site, self.network(*args, **kwargs))


def forward_kl_loss(
    recogniser: Recogniser, model: Model, labels: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Return -log q(z | x), the mean over labelled elements: the forward KL up to a constant.

    E_{p(x, z)} -log q(z | x) = E_{p(x)} KL(p(z | x) || q) + H(z | x), so with draws of the data the
    recogniser learns *their* posterior, and with draws of the model (``dream``) the model's: the
    sleep phase of Hinton et al. 1995, The wake-sleep algorithm, Science 268.

    Args:
        recogniser: what is trained.
        model: gives its prior, and nothing else.
        labels: task ids, -1 where unknown, broadcast to the shape of the site.
        args, kwargs: the data, as the model takes them.

    Returns:
        A scalar in nats.

    Raises:
        TaskSiteError: for a model without a task site, or with several.
        ValueError: for labels that do not fit, none known, or one that the prior forbids.

    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.25, 0.75]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=x)
    >>> untrained = Recogniser(lambda x: torch.zeros(len(x), 2))
    >>> forward_kl_loss(untrained, model, torch.tensor([1, -1]), torch.zeros(2))  # -log .75
    tensor(0.2877)
    """
    site, _, _ = only_site(model, args, kwargs)
    log_q = recogniser.log_prob(site, *args, **kwargs)
    labels = check_labels(labels, site.batch_shape, site.num_tasks).to(log_q.device)
    known = labels != UNKNOWN
    if not bool(known.any()):
        raise ValueError(
            "labels are all unknown (-1); expected one at least: draw them from the model (dream), "
            "or descend reverse_kl_loss, which needs none"
        )
    loss = torch.nn.functional.nll_loss(log_q[known], labels[known])
    if not bool(loss.detach().isfinite()):
        raise ValueError(
            f"labels name a task that the prior of {site.name!r} forbids: expected none of its "
            "elements; correct the labels or the prior"
        )
    return loss


def reverse_kl_loss(
    recogniser: Recogniser, exact: TaskPosterior, *args: Any, **kwargs: Any
) -> Tensor:
    """Return KL(q || p(z | x)), the mean over elements: the gap of q's evidence lower bound.

    E_q[log p(x, z)] + H(q) = log p(x) - KL(q || p(z | x)), and only the last depends on q:
    descending it ascends the bound with the model frozen. The expectation is summed over tasks, not
    sampled, and no labels are needed. The target may be computed once for all epochs.

    Args:
        recogniser: what is trained.
        exact: the posterior of the frozen model on the same data, ``Enumeration()(model, ...)``.
        args, kwargs: the data, as the recogniser takes them.

    Returns:
        A scalar in nats, >= 0.

    Raises:
        TaskSiteError: for a posterior over several sites.
        ValueError: when a task that the prior allows cannot have made the data, which makes the
            divergence infinite; and for what the network returns, if it does not fit.

    >>> site = TaskSite("z", torch.tensor([[0.5, 0.5]]).log(), (None,))
    >>> exact = TaskPosterior({"z": torch.tensor([[0.25, 0.75]]).log()}, {"z": site}, "by hand")
    >>> reverse_kl_loss(Recogniser(lambda: torch.zeros(1, 2)), exact)  # log 4 / 2 - log 3 / 2
    tensor(0.1438)
    """
    exact, name = exact.in_model_order(), exact.site_name()
    log_q = recogniser.log_prob(exact.sites[name], *args, **kwargs)
    allowed = ~exact.sites[name].log_prior.isneginf()
    log_p = exact.logits().to(log_q)
    if bool((log_p.isneginf() & allowed).any()):
        raise ValueError(
            f"the posterior of {name!r} holds tasks of probability zero that the prior allows; "
            "expected finite log probabilities, or KL(q || p) is infinite: take a likelihood that "
            "rules nothing out, or forward_kl_loss"
        )
    # Zero times infinity is no number: a forbidden task costs nothing and has no gradient.
    gap = log_q.masked_fill(~allowed, 0.0) - log_p.masked_fill(~allowed, 0.0)
    return (log_q.exp() * gap).sum(-1).mean()


class Dream(NamedTuple):
    """Tasks and data drawn from a model.

    Attributes:
        tasks: drawn task ids by site, the batch shape of the site.
        values: what was drawn for each observed site, by name.
    """

    tasks: dict[str, Tensor]
    values: dict[str, Tensor]


def dream(model: Model, *args: Any, generator: torch.Generator, **kwargs: Any) -> Dream:
    """Draw tasks and data from a model, p(z) p(x | z), leaving nothing behind.

    The data given in ``args`` are not looked at but for their shape. So it is for models that score
    their data and do not read them otherwise: one that predicts from the past, or sees the data
    through an encoder, would make up each value from data that are not its own.

    Args:
        model: a Pyro model.
        args, kwargs: what the model takes.
        generator: a seeded generator.

    Raises:
        TaskSiteError: for a model without a task site, or with ``pyro.factor``, whose density
            cannot be drawn from.

    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 9.0]), 0.1), obs=x)
    >>> tasks, values = dream(model, torch.zeros(50), generator=torch.Generator().manual_seed(0))
    >>> bool(((values["x"] > 4) == (tasks["z"] == 1)).all())
    True
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    with pure(model), torch.no_grad():
        pyro.set_rng_seed(seed)  # Pyro's sites take no generator
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
    drawn = {n: node for n, node in trace.nodes.items() if node["type"] == "sample"}
    if factors := [n for n, node in drawn.items() if isinstance(node["fn"], dist.Unit)]:
        raise TaskSiteError(
            f"the model has pyro.factor sites, {factors}; expected distributions alone, since a "
            "factor has no draws: write it as a distribution, or draw tasks and data by hand"
        )
    values = {n: node["value"] for n, node in drawn.items() if node["infer"].get("was_observed")}
    latent = {n: node for n, node in drawn.items() if n not in values}
    sites = {n: read_task_site(node) for n, node in latent.items() if node["infer"].get("task")}
    if not sites:
        raise no_task_sites()
    return Dream({n: drawn[n]["value"].argmax(-1) for n in sites}, values)


def _log_q(site: TaskSite, scores: Tensor) -> Tensor:
    scores = check_output("recogniser", scores, site.batch_shape, site.num_tasks)
    return (scores + site.log_prior.to(scores)).log_softmax(-1)
