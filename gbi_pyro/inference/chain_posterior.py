"""The posterior over tasks along time, as a filter or a marginal returns it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from gbi_pyro._arrays import check_order
from gbi_pyro.inference.chain_joint import ChainJoint
from gbi_pyro.inference.hmm import HMMPosterior
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.posterior import TaskPosterior

Output = Literal["filtered", "predicted", "smoothed"]


@dataclass(frozen=True)
class ChainPosterior(TaskPosterior):
    """A posterior over tasks along time: ``log_probs`` is the output that was asked for.

    The others, the most probable path and joint draws are at hand too. All of them have the axes of
    the model: time where its plate is, tasks last.

    Attributes:
        chain: the prior over tasks.
        hmm: the same with time before the tasks, the sequences on the left.
    """

    chain: TaskChain = field(kw_only=True, repr=False)
    hmm: HMMPosterior = field(kw_only=True, repr=False)
    _log_likelihood: Tensor = field(kw_only=True, repr=False)  # time before the tasks

    @property
    def log_filtered(self) -> Tensor:
        """Log p(z_t | x_1..t), ``batch_shape + (K,)``."""
        return self.hmm.log_filtered.movedim(-2, self._time - 1)

    @property
    def log_predicted(self) -> Tensor:
        """Log p(z_t | x_1..t-1), before x_t is seen, ``batch_shape + (K,)``."""
        return self.hmm.log_predicted.movedim(-2, self._time - 1)

    @property
    def log_smoothed(self) -> Tensor:
        """Log p(z_t | x_1..T), ``batch_shape + (K,)``."""
        return self.hmm.log_smoothed.movedim(-2, self._time - 1)

    @property
    def step_log_evidence(self) -> Tensor | None:
        """Log p(x_t | x_1..t-1), ``batch_shape``; None where the inference does not know it."""
        if self.log_evidence is None:
            return None
        return self.hmm.step_log_evidence.movedim(-1, self._time)

    @functools.cached_property
    def viterbi(self) -> Tensor:
        """The tasks of the most probable path, ``batch_shape``; found when first asked for."""
        best = self.chain.posterior(self._log_likelihood, viterbi=True).viterbi
        assert best is not None
        return best.movedim(-1, self._time)

    def reordered(self, order: Any, site: str | None = None) -> Self:
        """Return the posterior with its tasks, and those of its chain, in another order.

        See ``TaskPosterior.reordered``.
        """
        ids = check_order(order, self.chain.num_tasks)
        return replace(
            super().reordered(ids, site),
            chain=self.chain.reordered(ids),
            hmm=self.hmm.reordered(ids),
            _log_likelihood=self._log_likelihood[..., ids.to(self._log_likelihood.device)],
        )

    def sample_paths(self, n: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw paths from p(z_1..T | x_1..T), ``(n,) + batch_shape``, whatever the output is.

        Args:
            n: how many.
            generator: a seeded generator; torch's own random state without one.
        """
        return self.hmm.paths.sample(n, generator).movedim(-1, self._time)

    def sample_prior(self, n: int = 1, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw paths from the chain without its data, ``(n,) + batch_shape``.

        They are replicated paths, for ``gbi_pyro.metrics.predictive_check``.

        Args:
            n: how many.
            generator: a seeded generator; torch's own random state without one.
        """
        prior = self.chain.posterior(torch.zeros_like(self._log_likelihood))
        return prior.paths.sample(n, generator).movedim(-1, self._time)

    @property
    def _time(self) -> int:
        dims = self.sites[self.site_name()].dims
        return dims.index(self.settings["time"]) - len(dims)


def check_output(output: str) -> None:
    """Refuse an output that a chain does not have."""
    if output not in ("filtered", "predicted", "smoothed"):
        raise ValueError(f"output must be 'filtered', 'predicted' or 'smoothed', got {output!r}")


def along_chain(
    steps: TaskPosterior,
    chain: TaskChain,
    log_likelihood: Tensor,
    output: Output,
    time: str | None = None,
) -> ChainPosterior:
    """Put single steps together along time.

    Args:
        steps: the posterior over one task site, step by step.
        chain: the prior over its tasks.
        log_likelihood: log p(x_t | z_t = k), ``batch_shape + (K,)``.
        output: which probabilities ``log_probs`` holds.
        time: the name of the plate over time; that of the chain without it.

    Raises:
        TaskSiteError: when the task has no plate over time, or several that may be it.
        ValueError: for an unknown output, or a chain that does not fit.
    """
    check_output(output)
    name = steps.site_name()
    site = steps.sites[name]
    dim = site.time_dim(time or chain.time)
    if chain.num_tasks != site.num_tasks:
        raise ValueError(
            f"the chain has {chain.num_tasks} tasks, task site {name!r} has {site.num_tasks}; make "
            f"it for K = {site.num_tasks}"
        )
    by_time = log_likelihood.movedim(dim - 1, -2)
    found = chain.posterior(by_time)
    if found.log_smoothed.shape != by_time.shape:
        raise ValueError(
            f"the chain's inputs are for {tuple(found.log_smoothed.shape[:-2])} sequences, task "
            f"site {name!r} has {tuple(by_time.shape[:-2])}: give (..., T, D), the plate over time "
            "before the last dimension"
        )
    log_probs: Tensor = getattr(found, f"log_{output}")
    return ChainPosterior(
        {name: log_probs.movedim(-2, dim - 1)},
        steps.sites,
        method=f"{steps.method}, {output}",
        settings={**steps.settings, "chain": output, "time": site.dims[dim]},
        passes=steps.passes,
        num_observations=steps.num_observations,
        log_evidence=None if steps.log_evidence is None else found.log_evidence,
        log_outside=steps.log_outside,
        joint=ChainJoint(name, found.paths, dim, log_likelihood.shape)
        if output == "smoothed"
        else None,
        chain=chain,
        hmm=found,
        _log_likelihood=by_time,
    )
