"""Model comparison: scores per element, their differences and standard errors."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gbi_pyro._arviz import groups_of, relative_efficiency
from gbi_pyro.metrics._pareto import pareto_smoothed
from gbi_pyro.metrics.table import Table

if TYPE_CHECKING:
    import xarray as xr

    from gbi_pyro._arviz import InferenceData

Criterion = Literal["leave-one-out", "held-out", "log evidence", "prequential"]


@dataclass(frozen=True)
class Score:
    """The scores of one model, element by element, in nats; larger is better.

    - ``held-out``: log p(x_i | training data), as ``TaskDraws.log_predictive_density`` of data that
      the draws have not seen, or ``TaskPosterior.log_evidence`` for fixed weights.
    - ``leave-one-out``: log p(x_i | all other x), see ``leave_one_out``.
    - ``log evidence``: log p(x) of each independent data set, where it is tractable; differences
      are log Bayes factors.
    - ``prequential``: -log loss of each step ahead, see ``prequential_code`` and, for a series that
      was fitted as a whole, ``one_step_ahead``. Of an exact Bayesian learner the sum is the log
      evidence.

    Attributes:
        pointwise: one number for each element, step or data set, any shape.
        criterion: what was scored.
        worst_k_hat: where draws were reweighted, the largest Pareto k-hat; above .7, with S < 2200
            draws above 1 - 1 / log10(S), the score is not to be believed (Vehtari et al. 2024,
            Pareto smoothed importance sampling, arXiv:1507.02646).

    Raises:
        ValueError: for no elements, or numbers that are not finite.

    Example:
        >>> Score(torch.tensor([-1.0, -2.5]), "held-out").total
        -3.5
    """

    pointwise: Tensor
    criterion: Criterion
    worst_k_hat: float | None = None

    def __post_init__(self) -> None:
        if not self.pointwise.numel() or not bool(self.pointwise.isfinite().all()):
            bad = int((~self.pointwise.isfinite()).sum())
            raise ValueError(
                f"pointwise should hold finite scores of at least one element; got "
                f"{self.pointwise.numel()}, {bad} of them NaN or infinite: an element that a model "
                "holds to be impossible decides against it alone"
            )

    @property
    def total(self) -> float:
        """The sum over elements."""
        return self.pointwise.double().sum().item()


def leave_one_out(data: InferenceData) -> Score:
    """Score a model by leaving one element out, by Pareto-smoothed importance sampling.

    elpd_loo = sum_i log p(x_i | x without i) (Vehtari, Gelman and Gabry 2017, arXiv:1507.04544).
    The likelihood has tasks summed out, so an element is left out together with its task. Of a
    marginal with a chain the elements are sequences, each left out whole. One that the draws hang
    on, by parameters of its own say, has a large k-hat: refit without it, or hold it out.

    ``az.loo`` gives the same score. Its k-hat differs a little in ArviZ 1.x, which rounds the size
    of the tail down, and is NaN there where draws are tied.

    Args:
        data: what ``to_inference_data`` gave for draws of the model's other sites, or another
            ``InferenceData`` or ``DataTree`` with one variable in ``log_likelihood``.

    Raises:
        ValueError: for an export without likelihood, or one that does not depend on the draws; for
            a single element, and for the steps of a chain, which are not independent.
    """
    values = only_variable(data, "log_likelihood")
    if values is None or is_fixed(values):
        raise ValueError(
            "data should hold one log likelihood, which depends on the draws; got "
            + (_names(data, "log_likelihood") if values is None else "the same for each draw")
            + ": export a model with draws of its other sites, to_inference_data(mcmc, model, "
            "args), or score fixed weights on held-out data, Score(log_evidence, 'held-out')"
        )
    time = _time(data)
    if values[0, 0].size == 1 or time in values.dims:
        what = f"the steps {time!r} of a chain" if time in values.dims else "a single element"
        raise ValueError(
            f"leave-one-out takes independent elements, such as several sequences; got {what}: the "
            "steps of a chain are predicted from each other, so leaving one out is no test of the "
            "model. Score a series one step ahead, one_step_ahead(data, first=...)"
        )
    each = torch.as_tensor(values.transpose(..., "chain", "draw").values.copy()).flatten(-2)
    log_weights, k_hat = pareto_smoothed(-each, relative_efficiency(data))
    scores = (log_weights + each).logsumexp(-1)
    return Score(scores, "leave-one-out", k_hat.max().item())


def one_step_ahead(data: InferenceData, first: int) -> Score:
    r"""Score a chain by predicting each step from the past, by reweighting draws of one fit.

    log p(x_t | x_1..t-1) = log sum_s w_ts p(x_t | x_1..t-1, theta_s) for t > ``first``, with tasks
    summed out and Pareto-smoothed weights w_ts that are proportional to 1 / p(x_t..T | x_1..t-1,
    theta_s): they turn draws given the whole series into draws given its past (Bürkner, Gabry and
    Vehtari 2020, Approximate leave-future-out cross-validation, arXiv:1902.06281). The sum is the
    log evidence of the rest of the series given its beginning. The k-hat grows with what is taken
    away: where it is too large, choose a later ``first``, or fit the beginning alone and score the
    rest.

    Args:
        data: what ``to_inference_data`` gave for a marginal with a chain and draws of its sites.
        first: how many steps are known before the first one is predicted, at least 1.

    Returns:
        One number for each later step; of several sequences side by side the joint one.

    Raises:
        ValueError: for an export without a likelihood by step, or an invalid ``first``.
    """
    group, time = "log_likelihood_by_step", _time(data)
    found = only_variable(data, group)
    if found is None or time not in found.dims:
        raise ValueError(
            f"data should hold {group}, got {list(groups_of(data))}: export a marginal with a "
            "chain and draws of its sites, to_inference_data(mcmc, marginal, args)"
        )
    values = found.fillna(0.0)  # beyond the end of a sequence
    values = values.sum([dim for dim in values.dims if dim not in ("chain", "draw", time)])
    steps = torch.as_tensor(values.transpose("chain", "draw", time).values.copy()).flatten(0, 1)
    num_steps = steps.shape[-1]
    if not 1 <= first < num_steps:
        raise ValueError(f"first should be 1 to {num_steps - 1}, fewer than the steps; got {first}")
    future = steps.flip(-1).cumsum(-1).flip(-1)
    log_weights, k_hat = pareto_smoothed(-future[:, first:].T)
    scores = (log_weights + steps[:, first:].T).logsumexp(-1)
    return Score(scores, "prequential", k_hat.max().item())


def only_variable(data: InferenceData, group: str) -> xr.DataArray | None:
    """Return the variable of a group; None without the group, or with several variables."""
    found = [*groups_of(data).get(group, {}).values()]
    return found[0] if len(found) == 1 else None


def is_fixed(values: xr.DataArray) -> bool:
    """Whether a log likelihood is the same for each draw, as that of fixed weights is."""
    return bool((values == values.isel(chain=0, draw=0)).all())


def _names(data: InferenceData, group: str) -> str:
    return ", ".join(map(repr, groups_of(data).get(group, {}))) or "none"


def _time(data: InferenceData) -> str | None:
    """Return the dimension that the chain of an export runs along."""
    name = json.loads(data.attrs.get("settings", "{}")).get("time")
    probs = groups_of(data).get("task_probs")
    renamed = probs is not None and f"{name}_dim" in probs.dims
    return f"{name}_dim" if renamed else name


def compare_models(scores: Mapping[str, Score]) -> Table:
    """Compare models in a table, the best first, with differences from it.

    The standard error of a difference is that of N paired elements, sqrt(N var_i(d_i)) (Vehtari,
    Gelman and Gabry 2017, eq. 24). It takes elements as independent and is too small for steps of
    one stream; over seeds take ``paired_bootstrap``. For log evidence and prequential code, which
    is evidence if the learner is exact, the difference is a log Bayes factor, and ``probability``
    that of the model, all equally probable a priori.

    Args:
        scores: by the name of the model; all by the same criterion on the same elements.

    Returns:
        Columns model, score, difference, standard error, probability, worst k-hat, elements.

    Raises:
        ValueError: for no models, different criteria, or different elements.

    Example:
        >>> with_task = Score(torch.tensor([-1.0, -1.2]), "log evidence")
        >>> without = Score(torch.tensor([-2.0, -1.7]), "log evidence")
        >>> compare_models({"none": without, "task": with_task}).records()[1]["difference"]
        -1.5
    """
    kinds = {name: (s.criterion, tuple(s.pointwise.shape)) for name, s in scores.items()}
    if len(set(kinds.values())) != 1:
        raise ValueError(
            "scores should be of at least one model, all by the same criterion on the same "
            f"elements; got {kinds or 'none'}"
        )
    order = sorted(scores, key=lambda name: -scores[name].total)
    best = scores[order[0]]
    totals = torch.tensor([scores[name].total for name in order], dtype=torch.float64)
    is_evidence = best.criterion in ("log evidence", "prequential")
    probabilities = totals.softmax(0).tolist() if is_evidence else [None] * len(order)
    rows = []
    for name, probability in zip(order, probabilities, strict=True):
        score = scores[name]
        apart = (score.pointwise.double() - best.pointwise.double()).flatten()
        error = math.sqrt(len(apart)) * apart.std().item() if len(apart) > 1 else None
        rows.append(
            (
                name,
                score.total,
                apart.sum().item(),
                error if score is not best else None,
                probability,
                score.worst_k_hat,
                len(apart),
            )
        )
    columns = (
        "model",
        "score",
        "difference",
        "standard error",
        "probability",
        "worst k-hat",
        "elements",
    )
    return Table(f"{best.criterion}, nats; larger is better", columns, tuple(rows))
