"""Tasks that switch over time: likelihoods of single steps, combined by the exact chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference.chain_posterior import ChainPosterior, Output, along_chain, check_output
from gbi_pyro.inference.log_likelihoods import log_likelihoods
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.posterior import TaskPosterior
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
        log_initial: log p(z_1), ``(K,)``.
        log_transition: log p(z_t | z_t-1), ``(K, K)``; between blocks if there is a duration.
        log_duration: log p(block lasts d steps), ``(K, D)``, for explicit block lengths.
        output: ``"filtered"``, p(z_t | x_1..t); ``"predicted"``, p(z_t | x_1..t-1), the
            transition applied and x_t not yet seen; or ``"smoothed"``, p(z_t | all x).
        time: the name of the plate over time; without it the plate named ``"time"``, or the only
            plate of the task site.

    Raises:
        TaskSiteError: when the task has no plate over time, or several that may be it.
        ValueError: for a chain that does not fit; see ``hsmm_posterior``.
    """

    infer: Callable[..., TaskPosterior]
    log_initial: Tensor = field(repr=False)
    log_transition: Tensor = field(repr=False)
    log_duration: Tensor | None = field(default=None, repr=False)
    output: Output = "filtered"
    time: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.infer):
            raise TypeError(
                "infer should be an inference of single steps, such as OneStepGradient(); got a "
                f"{type(self.infer).__name__}"
            )
        for name in ("log_initial", "log_transition", "log_duration"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_tensor(value, name))
        check_output(self.output)

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> ChainPosterior:
        """Infer the task site of ``model`` called with ``args`` and ``kwargs``."""
        steps = self.infer(model, *args, **kwargs)
        chain = TaskChain(
            self.log_initial, self.log_transition, log_duration=self.log_duration, time=self.time
        )
        return along_chain(steps, chain, log_likelihoods(steps), self.output)
