"""Learning without task labels from one endless stream, a step at a time, in constant memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro._arrays import as_tensor
from gbi_pyro.inference._counts import Counts
from gbi_pyro.inference._kernels.chain_log_space import LOG_ZERO
from gbi_pyro.inference.log_likelihoods import log_likelihoods
from gbi_pyro.inference.online import StepsAhead
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.learning.collapse import CollapseReport, CollapseWarning, report_collapse
from gbi_pyro.learning.m_step import task_table
from gbi_pyro.learning.weights import check_gradients
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model

MEMORY = 500  # steps over which usage and gaps are averaged
LEARN_CHAIN_EVERY = 50  # steps


class OnlineEMStep(NamedTuple):
    """The prediction of one observation, and the posterior after it.

    Attributes:
        predicted: p(z_t | x_1..t-1), the transition applied and x_t not yet seen, ``(K,)``.
        filtered: p(z_t | x_1..t), ``(K,)``.
        log_prob: log p(x_t | x_1..t-1), before the weights see x_t: minus its sum over the stream
            is the prequential code length, in nats.
        mean: the prediction E[x_t | x_1..t-1]; None where the model gives no mean.
    """

    predicted: Tensor
    filtered: Tensor
    log_prob: float
    mean: Tensor | None


class OnlineEMRun(NamedTuple):
    """The steps of a stream, stacked over time.

    Attributes:
        predicted: ``(T, K)``; see ``OnlineEMStep``.
        filtered: ``(T, K)``.
        log_prob: ``(T,)``.
        mean: ``(T, ...)``, or None.
    """

    predicted: Tensor
    filtered: Tensor
    log_prob: Tensor
    mean: Tensor | None


class _Steps(Protocol):
    """One observation after the other under every task: what the online form needs to see."""

    state: Any

    def table(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return log p(x | k) with gradients, ``(K,)``, and the means, ``(K, ...)``."""

    def model(self, x: Tensor) -> tuple[Any, ...]:
        """Return a Pyro model of this observation, with its arguments."""

    def advance(self, x: Tensor, q: Tensor) -> None:
        """Carry the state past x."""


class OnlineEM:
    r"""Learn from an endless stream without labels: one latent and one weight update a step.

    ::

        predict   p(z_t) = sum_j p(z_t-1 = j | x_1..t-1) A[j, z_t]
        E-step    q(z_t) proportional to p(z_t) p(x_t | z_t), the Bayes filter
        M-step    one step of the optimiser up  E_q log p_theta(x_t | z_t)

    Memory does not grow, and nothing after t moves q(z_t). A network with ``step`` (see
    ``StepsAhead``) runs all its tasks in one call; any other Pyro model of one observation,
    ``model(x_t)``, is traced task by task, which takes about three times as long.

    The rate matters most: it has to fall, for instance as 1 / (1 + t / 200). Noise that starts wide
    keeps the first tasks soft, until they have come apart.

    Args:
        network: a network with ``step`` and ``initial_state``, or a Pyro model with one task site.
        optim: an optimiser of torch, over the weights.
        chain: how tasks switch; learned from the stream where it asks for it.
        e_step: any inference of the library, for the likelihood of the step; None takes the K
            forward passes that the M-step needs anyway.
        schedule: a schedule of the optimiser's rate, moved on at each step.
        check_every: after how many steps collapse is looked for; it is warned of once.

    Raises:
        TypeError: for arguments that are not what they should be.
        ValueError: for a chain of other tasks, or data that are not finite.

    >>> from torch import nn
    >>> class Means(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.means = nn.Parameter(torch.tensor([0.4, 0.6]))
    ...     def step(self, previous, z, state):
    ...         return dist.Normal(z @ self.means, 0.1), state
    ...     def initial_state(self, *batch_shape):
    ...         return None
    >>> network = Means()
    >>> optim = torch.optim.SGD(network.parameters(), lr=1e-3)
    >>> em = OnlineEM(network, optim, TaskChain.sticky(2, hazard=0.1))
    >>> run = em.run(torch.tensor([0.2, 0.2, 0.2, 0.8, 0.8, 0.8] * 20))
    >>> network.means.data.round(decimals=2), run.filtered[-1].argmax()
    (tensor([0.2000, 0.8000]), tensor(1))
    """

    def __init__(
        self,
        network: StepsAhead | Model,
        optim: torch.optim.Optimizer,
        chain: TaskChain,
        *,
        e_step: Callable[..., TaskPosterior] | None = None,
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        check_every: int = 1000,
    ) -> None:
        if not (isinstance(optim, torch.optim.Optimizer) and isinstance(chain, TaskChain)):
            raise TypeError(
                "OnlineEM takes a network, an optimiser of torch.optim and a TaskChain, got "
                f"{type(network).__name__}, {type(optim).__name__} and {type(chain).__name__}"
            )
        own = getattr(network, "num_tasks", chain.num_tasks)
        if own != chain.num_tasks:
            raise ValueError(
                f"chain has {chain.num_tasks} tasks, but the network {own}: make it for K = {own}"
            )
        if check_every < 1:
            raise ValueError(f"check_every must be at least 1, got {check_every}")
        self.network, self.optim, self.chain = network, optim, chain
        self.e_step, self.schedule, self.check_every = e_step, schedule, check_every
        self.num_steps = 0
        self.weights = [p for group in optim.param_groups for p in group["params"]]
        self._steps: _Steps = (
            _NetworkSteps(network, chain.num_tasks, self.weights[0])
            if hasattr(network, "step")
            else _ModelSteps(network)
        )
        # The filter is a few numbers: NumPy handles them in a third of the time of torch.
        self._transition = chain.log_transition.exp().double().numpy()
        self._predicted = chain.log_initial.exp().double().numpy()
        self._filtered: np.ndarray | None = None
        K = chain.num_tasks
        self._usage, self._gaps, self._weight = np.zeros(K), np.zeros((K, K)), 0.0
        self._counts = np.zeros((K, K))
        self._allowed = chain.allowed
        self._warned = False

    def step(self, x: Tensor | ArrayLike) -> OnlineEMStep:
        """See one observation: predict it, infer its task, move the weights.

        Args:
            x: x_t, of the shape that the network predicts.

        Returns:
            What was predicted, and the filtered task.

        Raises:
            ValueError: see the class; gradients that are not finite, before the weights move.
        """
        x = as_tensor(x, "x", like=self.weights[0])
        table, means = self._steps.table(x)
        log_likelihood = table.detach().double().cpu().numpy()
        predicted = self._predict(log_likelihood)
        used = log_likelihood if self.e_step is None else self._inferred(x)
        q, log_prob = _update(predicted, used)
        if self.e_step is not None:  # whose log likelihood lacks a constant
            _, log_prob = _update(predicted, log_likelihood)
        weights = torch.from_numpy(q).to(table)
        self._move(table, weights)
        self._steps.advance(x, weights)
        self._learn_chain(q, predicted)
        self._filtered = q
        self._watch(q, log_likelihood)
        mean = None
        if means is not None:
            m = means.detach().cpu().numpy()
            mean = torch.as_tensor((predicted @ m.reshape(len(m), -1)).reshape(m.shape[1:]))
        return OnlineEMStep(torch.from_numpy(predicted), torch.from_numpy(q), log_prob, mean)

    def run(self, stream: Tensor | ArrayLike) -> OnlineEMRun:
        """See the observations of a stream, ``(T, ...)``, and keep what each step returns."""
        return stack_steps(self.step, as_tensor(stream, "stream", like=self.weights[0]))

    def collapse(self) -> CollapseReport:
        """Report which tasks the network used and distinguished in the recent past."""
        if not self.num_steps:
            raise ValueError("no step was seen: expected to see data before a report; call step")
        return report_collapse(
            torch.from_numpy(self._usage / self._weight),
            torch.from_numpy(self._gaps / self._weight),
            self._allowed,
            carries_history=self._steps.state is not None,
        )

    def _predict(self, log_likelihood: np.ndarray) -> np.ndarray:
        if log_likelihood.shape != self._predicted.shape:
            raise ValueError(
                f"log p(x | task) has shape {log_likelihood.shape}, expected "
                f"{self._predicted.shape}: one number for each task of the chain. A stream is "
                "seen one observation at a time; a distribution of vectors takes .to_event()"
            )
        if self._filtered is None:
            return self._predicted
        predicted: np.ndarray = self._filtered @ self._transition
        return predicted

    def _inferred(self, x: Tensor) -> np.ndarray:
        assert self.e_step is not None
        found = log_likelihoods(self.e_step(*self._steps.model(x)))
        return found.reshape(-1, found.shape[-1]).sum(0).double().cpu().numpy()

    def _move(self, table: Tensor, q: Tensor) -> None:
        gradients = torch.autograd.grad(table, self.weights, -q, allow_unused=True)
        check_gradients(self.network, self.weights, gradients)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        self.optim.step()
        if self.schedule is not None:
            self.schedule.step()

    def _learn_chain(self, q: np.ndarray, predicted: np.ndarray) -> None:
        if self._filtered is None or self.chain.learn_transition == "nothing":
            return
        # p(z_t-1, z_t | x_1..t): the pair before x_t, weighted by what x_t says of z_t.
        ratio = np.divide(q, predicted, out=np.zeros_like(q), where=predicted > 0)
        self._counts += self._filtered[:, None] * self._transition * ratio
        if self.num_steps % LEARN_CHAIN_EVERY == 0:
            counts = torch.from_numpy(self._counts)
            self.chain = self.chain.updated(Counts(counts.new_zeros(len(counts)), counts))
            self._transition = self.chain.log_transition.exp().double().numpy()

    def _watch(self, q: np.ndarray, log_likelihood: np.ndarray) -> None:
        self.num_steps += 1
        keep = 1 - 1 / MEMORY
        self._usage = keep * self._usage + q
        finite = np.maximum(log_likelihood, LOG_ZERO)  # -inf - (-inf) is no number
        self._gaps = keep * self._gaps + np.abs(finite[:, None] - finite)
        self._weight = keep * self._weight + 1
        if self.num_steps % self.check_every == 0 and not self._warned:
            report = self.collapse()
            if report.collapsed:
                self._warned = True
                words = f"after {self.num_steps} steps of the stream: {report}"
                warnings.warn(words, CollapseWarning, stacklevel=3)


class _NetworkSteps:
    """A network with ``step``: all tasks in one call."""

    def __init__(self, network: Any, num_tasks: int, weight: Tensor) -> None:
        self.network = network
        self.state = network.initial_state()
        self.previous: Tensor | None = None
        self.corners = torch.eye(num_tasks, dtype=weight.dtype, device=weight.device)

    def table(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.previous is None:
            self.previous = torch.zeros_like(x)
        predicted, _ = self.network.step(self.previous, self.corners, self.state)
        return predicted.log_prob(x), predicted.mean

    def model(self, x: Tensor) -> tuple[Any, ...]:
        def one_step() -> None:
            K = len(self.corners)
            prior = dist.OneHotCategorical(probs=self.corners.new_full((K,), 1 / K))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", self.network.step(self.previous, z, self.state)[0], obs=x)

        return (one_step,)

    @torch.no_grad()
    def advance(self, x: Tensor, q: Tensor) -> None:
        if self.state is not None:
            _, self.state = self.network.step(self.previous, q, self.state)
        self.previous = x


class _ModelSteps:
    """Any Pyro model of one observation: traced task by task."""

    state: Any = None

    def __init__(self, model: Model) -> None:
        self.pyro_model = model

    def table(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        found = task_table(self.pyro_model, (x,))
        table = found.likelihood
        return table.reshape(len(table), -1).sum(-1) + found.rest, None

    def model(self, x: Tensor) -> tuple[Any, ...]:
        return self.pyro_model, x

    def advance(self, x: Tensor, q: Tensor) -> None:
        """Carry nothing: the model sees single observations."""


def stack_steps(step: Callable[[Tensor], OnlineEMStep], stream: Tensor) -> OnlineEMRun:
    """Return what a learner's steps return along a stream, ``(T, ...)``, stacked over time."""
    if not stream.ndim or not len(stream):
        raise ValueError(
            f"the stream has no step: got shape {tuple(stream.shape)}, expected (T, ...)"
        )
    predicted, filtered, log_prob, mean = zip(*map(step, stream), strict=True)
    means = None if mean[0] is None else torch.stack(mean)
    return OnlineEMRun(torch.stack(predicted), torch.stack(filtered), torch.tensor(log_prob), means)


def _update(predicted: np.ndarray, log_likelihood: np.ndarray) -> tuple[np.ndarray, float]:
    """Return predicted x likelihood, normalised, and the log of the normaliser."""
    largest = log_likelihood.max()
    if not np.isfinite(largest):
        raise ValueError(
            f"the log likelihood of an observation is {log_likelihood}; expected finite numbers: "
            "look for NaN or infinite data, or weights that diverged (a lower rate)"
        )
    joint = predicted * np.exp(log_likelihood - largest)
    total = joint.sum()
    if not total > 0:  # only tasks that the chain forbids explain it, in floating point
        return predicted, float(largest + np.log(np.finfo(float).tiny))
    return joint / total, float(largest + np.log(total))
