"""Tasks that switch over time: likelihoods of single steps, combined by the exact chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gbi_pyro.inference.chain_posterior import ChainPosterior, Output, along_chain, check_output
from gbi_pyro.inference.chain_stream import ChainStream, StreamState
from gbi_pyro.inference.log_likelihoods import log_likelihoods
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSite, TaskSiteError


@dataclass(frozen=True)
class BayesFilter:
    """Infer a task that switches over time, by a Bayes filter over any inference of single steps.

    The log likelihood of step t is log q(z_t | x_t) - log pi, what the data add to the prior of
    the model. With ``Enumeration`` of a model whose steps are independent given their tasks this is
    the exact posterior of the hidden (semi-)Markov chain; with ``OneStepGradient`` it is the true
    filter of gradient-based log likelihoods.

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
        chain = self._chain(args, kwargs)
        steps = self.infer(model, *args, **kwargs)
        return along_chain(steps, chain, log_likelihoods(steps), self.output, self.time)

    def stream(self, model: Model, state: StreamState | None = None) -> TaskStream:
        """Return the filter for a live stream, which takes one step at each call.

        Args:
            model: of a single step: with a plate over time of size 1, or without one.
            state: where to go on; None begins a stream.

        Raises:
            ValueError: for ``output="smoothed"``, which needs the future.
        """
        if self.output == "smoothed":
            raise ValueError(
                "output should be 'filtered' or 'predicted' for a stream, whose future is not "
                "known; got 'smoothed'"
            )
        return TaskStream(self, model, state)

    def _chain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TaskChain:
        if isinstance(self.chain, TaskChain):
            return self.chain
        with pure(self.chain), torch.no_grad():
            return self.chain(*args, **kwargs)


class TaskStream:
    """A Bayes filter over a live stream, or a batch of them; made by ``BayesFilter.stream``.

    Attributes:
        state: what to keep, see ``StreamState``; None before the first step.

    >>> import pyro, pyro.distributions as dist
    >>> from gbi_pyro import OneStepGradient
    >>> def model(x):
    ...     z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...     pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 0.5), obs=x)
    >>> stream = BayesFilter(OneStepGradient(), TaskChain.sticky(2, hazard=0.1)).stream(model)
    >>> [stream.step(torch.tensor(x)).mode().item() for x in (0.1, -0.2, 0.9, 1.2)]
    [0, 0, 0, 1]
    """

    def __init__(self, bayes: BayesFilter, model: Model, state: StreamState | None = None) -> None:
        self._filter, self._model, self.state = bayes, model, state
        self._stream = None
        if isinstance(bayes.chain, TaskChain):
            self._stream = ChainStream(bayes.chain, state)

    def step(self, *args: Any, inputs: Tensor | None = None, **kwargs: Any) -> TaskPosterior:
        """Take the next step: infer its task on its own, and put it into the stream.

        Args:
            args: what the model takes for this step.
            inputs: u_t, ``(..., D)``, where inputs drive the transitions; a ``LearnedChain`` reads
                its own from ``args``.
            kwargs: what the model takes.

        Returns:
            The filtered (or predicted) posterior over the task of this step; its log evidence is
            log p(x_t | x_1..t-1), where the inference knows it.

        Raises:
            TaskSiteError, ValueError: see ``BayesFilter``; and for more than one step. The state
                stays as it was.
        """
        bayes = self._filter
        stream, inputs = self._chain_stream(inputs, args, kwargs)
        steps = bayes.infer(self._model, *args, **kwargs)
        name, log_likelihood = steps.site_name(), log_likelihoods(steps)
        time = bayes.time or stream.chain.time or "time"
        dim = _dim_of_one_step(steps.sites[name], time)
        found = stream.step(log_likelihood if dim is None else log_likelihood.squeeze(dim), inputs)
        self.state = stream.state
        log_probs = found.log_filtered if bayes.output == "filtered" else found.log_predicted
        return TaskPosterior(
            {name: log_probs if dim is None else log_probs.unsqueeze(dim)},
            steps.sites,
            method=f"{steps.method}, {bayes.output}",
            settings={
                **steps.settings,
                "chain": bayes.output,
                **({} if dim is None else {"time": time}),
            },
            passes=steps.passes,
            num_observations=steps.num_observations,
            log_evidence=None if steps.log_evidence is None else found.log_evidence,
            log_outside=steps.log_outside,
        )

    def _chain_stream(
        self, inputs: Tensor | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[ChainStream, Tensor | None]:
        """Return the filter of the chain where it stands, and the inputs of this step."""
        if self._stream is not None:
            self._stream.state = self.state
            return self._stream, inputs
        chain = self._filter._chain(args, kwargs)
        if inputs is None and chain.inputs is not None:
            inputs = chain.inputs[..., -1, :]
        return ChainStream(chain, self.state), inputs


def _dim_of_one_step(site: TaskSite, time: str) -> int | None:
    """Return the batch dimension over time, of size 1; None for a model without that plate."""
    if time not in site.dims:
        return None
    dim = site.dims.index(time)
    if site.batch_shape[dim] != 1:
        raise TaskSiteError(
            f"task site {site.name!r} has {site.batch_shape[dim]} steps in plate {time!r}; a "
            "stream takes one at each call: pass x[t:t + 1], or all of them to the filter itself"
        )
    return dim
