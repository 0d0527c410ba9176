"""A model's log joint, or a marginal's, at many values of its parameters by one run.

``torch.func.vmap`` over the values, and over the tasks within, so that the model needs no dimension
for either. The run checks nothing: whoever takes it compares it with a checked run first. A model
that vmap cannot follow (its code branches on its parameters) fails, and is run value by value.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions import MaskedDistribution, TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from gbi_pyro.inference._hidden_task import FirstRun
from gbi_pyro.inference._kernels import chain_fast as fast
from gbi_pyro.inference._tape import Tape
from gbi_pyro.inference.hmm import hmm_log_evidence, hsmm_posterior
from gbi_pyro.inference.marginal import Marginal
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.score import Factor, by_element
from gbi_pyro.sites import TaskSite, is_task_message, read_task_site

_NUMBERS = 2**18  # of a table of log likelihoods: 2 MB, what a cache holds


@dataclass
class Vectorised:
    """The log evidence of a marginal at many parameter values.

    Attributes:
        marginal: see ``marginalize``.
        args: what it takes.
        first: a checked run of it.
        values: the parameters and latent sites by name, from one vector of free numbers.
        weights: parameters that a network reads from itself, by name.
        replays: whether runs repeat the arithmetic of the first of their size.
    """

    marginal: Marginal
    args: tuple[Any, ...]
    first: FirstRun
    values: Callable[[Tensor], Mapping[str, Tensor]]
    weights: Mapping[str, Tensor]
    replays: bool = True
    _tapes: dict[int, Tape] = field(default_factory=dict, repr=False)

    @property
    def at_once(self) -> int:
        """How many values fit into one run whose tables stay in the cache."""
        return max(_NUMBERS // self.first.site.log_prior.numel(), 1)

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return log p(x) at each of the vectors: ``(S, P)`` to ``(S,)``.

        NaN where no task can have made some data, or where a likelihood is NaN.
        """
        outside, likelihood, own, chain, finite = self._tables(vectors)
        site, frames = self.first.site, dict(self.first.frames)
        if chain:
            time = site.time_dim(self.first.time)
            frames.pop(site.dims[time], None)
            evidence = _evidence(*_by_sequence(chain, likelihood.movedim(time - 1, -2)))
        else:
            evidence = (likelihood + own).logsumexp(-1)
        scale = math.prod((f.full_size or f.size) / f.size for f in frames.values())
        total: Tensor = outside + scale * evidence.reshape(len(vectors), -1).sum(-1)
        return torch.where(finite, total, math.nan)

    def counts(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """Return log p(x) and the posterior of the tasks, for a chain of constant transitions.

        Returns:
            ``(S,)``; p(z | x), ``(S,) + batch_shape + (K,)``; p(z_t, z_t+1 | x) summed over steps
            and sequences, ``(S, K, K)``, None without a chain. None for all where numbers are too
            small to count by.
        """
        outside, likelihood, own, chain, finite = self._tables(vectors)
        if not chain:
            joint = likelihood + own
            evidence, pairs = joint.logsumexp(-1), None
            q = (joint - evidence.unsqueeze(-1)).exp()
        else:
            time = self.first.site.time_dim(self.first.time) - 1
            args, _ = _by_sequence(chain, likelihood.movedim(time, -2))
            counted = fast.counts(args[0], args[1].unsqueeze(-3), args[2])
            if counted is None:
                return None
            evidence, q, pairs = counted
            q, K = q.movedim(-2, time), q.shape[-1]
            pairs = pairs.reshape(len(vectors), -1, K, K).sum(1)
        total = outside + evidence.reshape(len(vectors), -1).sum(-1)
        return torch.where(finite, total, math.nan), q, pairs

    def first_tasks(self, q: Tensor) -> Tensor:
        """Return how often each task begins a sequence, ``(S, K)``, from p(z | x)."""
        by_time = q.movedim(self.first.site.time_dim(self.first.time) - 1, -2)[..., 0, :]
        return by_time.reshape(len(q), -1, q.shape[-1]).sum(1)

    def _tables(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor]:
        """Return what runs give, and which of the vectors explain all data."""
        outside, likelihood, own, *chain = self._results(vectors)
        if self.first.real is not None:
            likelihood = torch.where(self.first.real, likelihood, 0.0)
        S = len(vectors)
        finite = likelihood.detach().amax(-1).isfinite().reshape(S, -1).all(-1)
        likelihood = torch.where(finite.reshape(S, *[1] * (likelihood.ndim - 1)), likelihood, 0.0)
        return outside, likelihood, own, chain, finite

    def _results(self, vectors: Tensor) -> list[Tensor]:
        if not self.replays:
            return list(self._together(vectors))
        S = len(vectors)
        # A tape of up to twice as many will do, so that few are recorded as starts end.
        size = min((n for n in self._tapes if S <= n <= 2 * S), default=S)
        if size > S:
            vectors = torch.cat([vectors, vectors[-1:].detach().expand(size - S, -1)])
        if size not in self._tapes:
            self._tapes[size] = Tape(self._together, vectors.detach())
        return [result[:S] for result in self._tapes[size](vectors)]

    def _together(self, vectors: Tensor) -> tuple[Tensor, ...]:
        with pyro.validation_enabled(False):
            found: tuple[Tensor, ...] = torch.func.vmap(self._run, randomness="same")(vectors)
        return found

    def _run(self, vector: Tensor) -> tuple[Tensor, ...]:
        values, prior, outside = self.values(vector), self.marginal.prior, []
        swapped = {id(weight): values[name] for name, weight in self.weights.items()}
        with _Swapped(swapped) if swapped else contextlib.nullcontext():
            if callable(prior):
                with _Unchecked(values, self.first) as run:
                    prior = prior(*self.args)
                outside = [f.total for f in run.factors.values()]
            tasks = torch.eye(self.first.site.num_tasks, dtype=self.first.site.log_prior.dtype)
            at_task = partial(self._at_task, values)
            by_task = torch.func.vmap(at_task, out_dims=(0, -1, -1), randomness="same")
            rest, likelihood, own = by_task(tasks)
        total = sum(outside, rest[0])
        if isinstance(prior, TaskChain):
            return total, likelihood, own, *_numbers_of(prior)
        return total, likelihood, own if prior is None else prior.log_probs.expand_as(own)

    def _at_task(self, values: Mapping[str, Tensor], task: Tensor) -> tuple[Tensor, ...]:
        with _Unchecked(values, self.first, task) as run:
            self.marginal.model(*self.args)
        nesting = max(f.log_prob.ndim for f in run.factors.values())
        ours = {name: run.factors[name] for name in self.first.factors}
        likelihood, own = by_element(ours, run.site, nesting)
        rest = [f.total for name, f in run.factors.items() if name not in ours]
        return sum(rest, torch.zeros(())), likelihood[0], own[0]


def _numbers_of(chain: TaskChain) -> list[Tensor]:
    found = [chain.log_initial, chain.transitions]
    return found if chain.log_duration is None else [*found, chain.log_duration]


def _by_sequence(chain: list[Tensor], likelihood: Tensor) -> tuple[list[Tensor], bool]:
    """Return the arguments of a chain, and whether it has a transition for each step.

    Args:
        chain: its numbers, with or without dimensions for the sequences.
        likelihood: ``(S, ..., T, K)``; the values are the first dimension.
    """
    per_step, args = chain[1].ndim > 3, []
    for value, rank in zip(chain, (1, 3 if per_step else 2, 2), strict=False):
        ones = [1] * (likelihood.ndim - 2 + rank - value.ndim)  # where it is one for all sequences
        args.append(value.reshape(len(value), *ones, *value.shape[1:]))
    args.insert(2, likelihood.double())
    return args, per_step


def _evidence(args: list[Tensor], per_step: bool) -> Tensor:
    """Return the log evidence of each sequence at each value; NaN where it is impossible."""
    try:
        if len(args) == 3:
            return hmm_log_evidence(*args, per_step=per_step)
        return hsmm_posterior(*args, per_step=per_step, viterbi=False).log_evidence
    except ValueError:
        S = len(args[2])
        if S == 1:
            return args[2].sum((-1, -2)) * math.nan
        return torch.cat([_evidence([a[i : i + 1] for a in args], per_step) for i in range(S)])


def _known(factor: Factor) -> Tensor:
    assert factor.value is not None  # of a run that scored it
    return factor.value


class _Corner(TorchDistribution):
    """The prior of a task that is known to be one of them."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, log_prior: Tensor) -> None:
        self.log_prior = log_prior
        super().__init__(log_prior.shape[:-1], log_prior.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log pi_k, where a forbidden other task is no NaN."""
        return torch.where(value > 0, self.log_prior, 0.0).sum(-1)


class _Unchecked(Messenger):
    """Effect handler that scores a run at given parameters, latent sites and task.

    Data in the plates of the task, and their masks, are those of the first run.
    """

    def __init__(
        self, values: Mapping[str, Tensor], first: FirstRun, task: Tensor | None = None
    ) -> None:
        super().__init__()
        self.values, self.first, self.task = values, first, task
        self.factors: dict[str, Factor] = {}
        self.site: TaskSite

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"], msg["stop"] = self.values[msg["name"]], True, True

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg):
            value = self.first.indices[name]
        elif self.task is not None and is_task_message(msg):
            self.site = read_task_site(msg, min_tasks=1)
            msg["fn"], msg["mask"] = _Corner(self.site.log_prior), None
            value = self.task.expand(self.site.log_prior.shape)
        elif name in self.first.factors:
            value = _known(self.first.factors[name])
        elif name in self.values:
            value = self.values[name]
        else:
            return
        msg["value"], msg["is_observed"] = value, True
        msg["done"] = msg["stop"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        fn, mask, known = msg["fn"], msg["mask"], self.first.factors.get(msg["name"])
        while isinstance(fn, MaskedDistribution) and not msg["infer"].get("task"):
            mask = fn._mask if mask is None else fn._mask & mask
            fn = fn.base_dist
        log_prob = fn.log_prob(msg["value"])
        scale = msg["scale"]
        if known is not None:
            mask = known.mask
            for frame in msg["cond_indep_stack"]:
                scale = scale * frame.size / (frame.full_size or frame.size)
        if isinstance(scale, Tensor) or scale != 1.0:
            log_prob = log_prob * scale
        if mask is not None and mask is not True:
            log_prob = torch.where(torch.as_tensor(mask), log_prob, 0.0)
        plates = {f.name: f.dim for f in msg["cond_indep_stack"] if f.vectorized}
        is_task = bool(msg["infer"].get("task"))
        self.factors[msg["name"]] = Factor(log_prob, log_prob.sum(), plates, not is_task, is_task)


class _Swapped(TorchFunctionMode):
    """Puts others in the place of some tensors, by id, in whatever torch computes of them.

    A network reads its weights from itself, out of reach of Pyro's handlers.
    """

    def __init__(self, others: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.others = others

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Pyro tells by it what is a parameter.
        if func != Tensor.requires_grad.__get__:  # type: ignore[attr-defined]
            args, kwargs = tree_map_only(
                Tensor, lambda t: self.others.get(id(t), t), (args, kwargs)
            )
        return func(*args, **kwargs)
