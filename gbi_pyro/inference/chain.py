"""Tasks that switch over time: likelihoods of single steps, combined by the exact chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from gbi_pyro.inference.chain_posterior import ChainPosterior, Output, along_chain, check_output
from gbi_pyro.inference.log_likelihoods import log_likelihoods
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model


@dataclass(frozen=True)
class BayesFilter:
    """Infer a task that switches over time, by a Bayes filter over any inference of single steps.

    The log likelihood of step t is log q(z_t | x_t) - log pi, what the data add to the prior of
    the model. With ``Enumeration`` of a model whose
    steps are independent given their tasks this is the exact posterior of the hidden (semi-)Markov
    chain; with ``OneStepGradient`` it is the true filter of gradient-based log likelihoods.

    Args:
        infer: inference of the model's single steps, for example ``OneStepGradient()``.
        chain: the prior over tasks: a ``TaskChain``, or a function of the model's arguments that
            returns one, such as a ``LearnedChain``.
        output: ``"filtered"``, p(z_t | x_1..t); ``"predicted"``, p(z_t | x_1..t-1), the
            transition applied and x_t not yet seen; or ``"smoothed"``, p(z_t | all x).
        time: the name of the plate over time; that of the chain without it.

    Raises:
        TypeError: for what is no inference, or no chain.
        TaskSiteError: when the task has no plate over time, or several that may be it.
        ValueError: for a chain that does not fit.

    >>> import pyro, pyro.distributions as dist
    >>> from gbi_pyro import Enumeration
    >>> def model(x):
    ...     with pyro.plate("time", len(x)):
    ...         z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 0.5), obs=x)
    >>> filtered = BayesFilter(Enumeration(), TaskChain.sticky(2, hazard=0.1))
    >>> filtered(model, torch.tensor([0.1, -0.2, 0.9, 1.2])).mode()
    tensor([0, 0, 0, 1])
    """

    infer: Callable[..., TaskPosterior]
    chain: TaskChain | Callable[..., TaskChain] = field(repr=False)
    output: Output = "filtered"
    time: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.infer):
            raise TypeError(
                "infer should be an inference of single steps, such as OneStepGradient(); got a "
                f"{type(self.infer).__name__}"
            )
        if not (isinstance(self.chain, TaskChain) or callable(self.chain)):
            raise TypeError(
                "chain should be a TaskChain, or a function of the model's arguments that returns "
                f"one; got a {type(self.chain).__name__}: of tensors make "
                "TaskChain(log_initial, log_transition)"
            )
        check_output(self.output)

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> ChainPosterior:
        """Infer the task site of ``model`` called with ``args`` and ``kwargs``."""
        chain = self.chain
        if not isinstance(chain, TaskChain):
            with pure(chain), torch.no_grad():
                chain = chain(*args, **kwargs)
        steps = self.infer(model, *args, **kwargs)
        return along_chain(steps, chain, log_likelihoods(steps), self.output, self.time)
