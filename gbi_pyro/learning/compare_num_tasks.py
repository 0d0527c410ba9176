"""The number of tasks of a marginal, by information criteria and by data that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from gbi_pyro.inference.chain_posterior import ChainPosterior
from gbi_pyro.inference.marginal import Marginal
from gbi_pyro.learning.fit_marginal import Fit, fit_marginal
from gbi_pyro.learning.num_tasks import TaskChoice, one_standard_error
from gbi_pyro.posterior import TaskPosterior

if TYPE_CHECKING:
    import pandas as pd

Select = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class NumTasksComparison:
    """Fits with several numbers of tasks.

    Attributes:
        fits: the fit to all data, by K.
        scores: log p of data that a fit has not seen, by K, ``(N,)``: of each sequence, or element
            without a chain; of a single series of each block of its later steps, one step ahead.
        unit: what there is a score of: ``"sequence"`` or ``"block of steps"``.
    """

    fits: dict[int, Fit]
    scores: dict[int, Tensor]
    unit: str

    @property
    def by_held_out(self) -> TaskChoice:
        """The smallest K within one standard error of the best on unseen data."""
        return one_standard_error(self.scores)

    @property
    def by_bic(self) -> int:
        """The K of the smallest BIC."""
        return min(self.fits, key=lambda k: self.fits[k].bic)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row for each K: its fit, and its score on unseen data, in nats.

        ``held_out`` is the mean over sequences (or blocks), ``difference`` that to the smallest K
        with its standard error over them.
        """
        import pandas as pd  # late: slow to load

        rows, base = [], self.scores[min(self.scores)]
        for K, fit in self.fits.items():
            score, n = self.scores[K], len(base)
            rows.append(
                {
                    "num_tasks": K,
                    "num_parameters": fit.num_parameters,
                    "log_evidence": fit.log_evidence,
                    "aic": fit.aic,
                    "bic": fit.bic,
                    "num_agree": fit.num_agree,
                    "held_out": score.mean().item(),
                    "difference": (score - base).mean().item(),
                    "standard_error": ((score - base).std() / n**0.5).item(),
                }
            )
        return pd.DataFrame(rows)


def compare_num_tasks(
    marginal: Callable[[int], Marginal],
    candidates: Iterable[int],
    *args: Any,
    folds: int = 5,
    seed: int = 0,
    select: Select | None = None,
    **options: Any,
) -> NumTasksComparison:
    """Fit a marginal with several numbers of tasks, and score each on data it has not seen.

    Several sequences are left out fold by fold, drawn at random. A single series is fitted up to
    its middle; the later steps are scored one step ahead, log p(x_t | x_1..t-1) at those
    estimates, in as many blocks as folds. Each fit begins with parameters of its own; those of
    Pyro's store stay as they are.

    Args:
        marginal: gives the marginal with K tasks; K = 1, no switching, may stand in the table.
            Its lengths, if any, have to be a function of the arguments.
        candidates: the numbers of tasks.
        args: what the marginals take.
        folds: how many parts, at least 2.
        seed: of the folds and the starts.
        select: ``select(indices, *args)`` returns the arguments of some sequences, or of some steps
            of a single series; without it every tensor as long as there are sequences (steps) is
            indexed along its first dimension.
        options: of ``fit_marginal``.

    Raises:
        ValueError: for no candidates, fewer than two folds, or too few sequences (steps); for
            lengths that are no function, and arguments of which no part was taken.

    >>> import pyro.distributions as dist
    >>> from gbi_pyro import LearnedChain, marginalize
    >>> def counts(num_tasks):
    ...     def model(x):
    ...         rates = pyro.param("rates", torch.linspace(1.0, 9.0, num_tasks).double())
    ...         with pyro.plate("session", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1):
    ...             prior = dist.OneHotCategorical(torch.ones(num_tasks).double())
    ...             z = pyro.sample("z", prior, infer={"task": True})
    ...             pyro.sample("x", dist.Poisson(z @ rates), obs=x)
    ...     return marginalize(model, LearnedChain(num_tasks))
    >>> x = torch.tensor([1.0, 1.0, 1.0, 9.0, 9.0, 9.0, 2.0, 1.0, 8.0, 10.0]).repeat(6, 1)
    >>> found = compare_num_tasks(counts, (1, 2), x, folds=3, starts=2)
    >>> found.by_bic, found.by_held_out.num_tasks
    (2, 2)
    """
    if folds < 2:
        raise ValueError(f"folds should be at least 2, got {folds}")
    candidates = list(candidates)
    if not candidates:
        raise ValueError("candidates should be one number of tasks at least, got none")
    fits, scores, unit = {}, {}, "sequence"
    for K in candidates:
        fitted = _Fitted(marginal, K, args, {"seed": seed, **options})
        fits[K] = fitted.to(args)
        several, n = _count(fits[K].infer(*args))
        unit = "sequence" if several else "block of steps"
        if n < 2 * folds:
            raise ValueError(
                f"folds={folds} parts of {n} {'sequences' if several else 'steps'} leave too few "
                "in each; expected at least two: take fewer folds"
            )
        take = select or _along_first(n)
        if several:
            scores[K] = _by_fold(fitted, take, n, folds, seed)
        else:
            scores[K] = _later(fitted, take, n, folds)
    return NumTasksComparison(fits, scores, unit)


@dataclass(frozen=True)
class _Fitted:
    """Fits of one marginal to several data."""

    marginal: Callable[[int], Marginal]
    num_tasks: int
    args: tuple[Any, ...]
    options: dict[str, Any]

    def to(self, args: tuple[Any, ...]) -> Fit:
        made = self.marginal(self.num_tasks)
        if isinstance(made.lengths, Tensor):
            raise ValueError(
                "lengths should be a function of the marginal's arguments, so that they are those "
                "of the sequences left in; got a tensor: marginalize(model, prior, lambda x, n: n)"
            )
        with pyro.get_param_store().scope():
            return fit_marginal(made, *args, **self.options)

    def to_part(self, args: tuple[Any, ...], n: int) -> Fit:
        """Fit a part of the data, which should hold ``n`` sequences (or steps) and no more."""
        fit = self.to(args)
        if (found := _count(fit.infer(*args))[1]) != n:
            raise ValueError(
                f"the part that is to be fitted should hold {n} sequences or steps, got {found}, "
                "so that scores would not be those of unseen data: give tensors whose first "
                "dimension is that of the sequences (of a single series, of time), or select=..."
            )
        return fit


def _count(posterior: TaskPosterior) -> tuple[bool, int]:
    """Return whether there are several sequences (or elements without a chain), and how many.

    Of a single sequence how many steps.
    """
    n = len(_evidence(posterior))
    if n > 1 or not isinstance(posterior, ChainPosterior):
        return True, n
    return False, len(_one_step_ahead(posterior))


def _evidence(posterior: TaskPosterior) -> Tensor:
    assert posterior.log_evidence is not None  # of an exact one
    return posterior.log_evidence.double().flatten()


def _one_step_ahead(posterior: TaskPosterior) -> Tensor:
    assert isinstance(posterior, ChainPosterior)
    assert posterior.step_log_evidence is not None
    return posterior.step_log_evidence.double().flatten()


def _by_fold(fitted: _Fitted, take: Select, n: int, folds: int, seed: int) -> Tensor:
    scores = torch.empty(n, dtype=torch.float64)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for out in order.chunk(folds):
        kept = torch.ones(n, dtype=torch.bool)
        kept[out] = False
        fit = fitted.to_part(take(kept.nonzero()[:, 0], *fitted.args), n - len(out))
        scores[out] = _evidence(fit.infer(*take(out, *fitted.args)))
    return scores


def _later(fitted: _Fitted, take: Select, n: int, blocks: int) -> Tensor:
    fit = fitted.to_part(take(torch.arange(n // 2), *fitted.args), n // 2)
    later = _one_step_ahead(fit.infer(*fitted.args))[n // 2 :]
    return torch.stack([block.sum() for block in later.tensor_split(blocks)])


def _along_first(n: int) -> Select:
    def take(indices: Tensor, *args: Any) -> tuple[Any, ...]:
        return tuple(
            a[indices] if isinstance(a, Tensor) and a.ndim and len(a) == n else a for a in args
        )

    return take
