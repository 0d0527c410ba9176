"""One gradient step from the maximum-entropy point: the task posterior in one backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from gbi_pyro.inference._curvature import hessian_row
from gbi_pyro.inference._options import check_numbers
from gbi_pyro.inference.calibration import Calibration
from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.relax import Model


@dataclass(frozen=True)
class OneStepGradient:
    r"""Infer the task by one gradient step at the maximum-entropy point u.

    First order (Hummos et al., arXiv 2407.17356, eq. 7): log q = log_softmax(g / T) with T the
    temperature and g = dl/dq at u. Second order: log q = log_softmax(s / T) with
    s_k = g . (e_k - u) + 1/2 (e_k - u)' C (e_k - u) and C the Hessian of l at u.

    The step of size 1 / T = 1 *is* the exact posterior when l is affine in q, and for Gaussian
    noise around a mean affine in q whose task means lie equally far from their centroid (always so
    for two tasks). With three tasks or more take ``order=2`` (exact whenever the mean is affine)
    or a ``calibration``. With several sites each is inferred with the others at maximum entropy;
    ``SecondOrderJoint`` infers them together.

    Args:
        temperature: T, weight of the entropy; other values than 1 temper the posterior.
        order: 1, or 2 to use the curvature as well (K - 1 more backward passes). Elements must not
            influence each other: wrap a network that carries its past in ``stepwise`` first.
        calibration: a correction fitted by ``calibrate``, for first order; several sites take a
            tuple or a list, one calibration each.

    Calling it as ``OneStepGradient()(model, *args)`` returns a ``TaskPosterior``; weights are
    constants and nothing is left behind. Where all data are masked it is the prior.

    Raises:
        TaskSiteError: see ``RelaxedModel``.
        ValueError: for options that do not fit together.
        TypeError: for an option that is no number, or no calibration.

    >>> import pyro, pyro.distributions as dist, torch
    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.2, 0.8]), 0.1), obs=x)
    >>> posterior = OneStepGradient()(model, torch.tensor([0.2, 0.5, 0.52]))
    >>> posterior.probs().round(decimals=2)
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000],
            [0.2300, 0.7700]])
    >>> posterior.passes
    Passes(forward=1, backward=1, check=0)
    """

    temperature: float = 1.0
    order: int = 1
    calibration: Calibration | Sequence[Calibration] | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "temperature", integers=("order",))
        if isinstance(self.calibration, list):
            object.__setattr__(self, "calibration", tuple(self.calibration))
        for calibration in self._calibrations():
            if not isinstance(calibration, Calibration):
                raise TypeError(
                    "calibration should be what calibrate(one_step, exact) returns, or a tuple of "
                    f"those, got a {type(calibration).__name__}"
                )
        if not self.temperature > 0:
            raise ValueError(
                f"temperature must be positive (it divides the gradient), got {self.temperature}"
            )
        if self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {self.order}")
        if self.order == 2 and self.calibration is not None:
            raise ValueError(
                "order=2 takes no calibration, which is fitted to first-order scores: give one"
            )

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        joint = run.log_joint(lambda site: site.uniform(), order=self.order)
        run.count(forward=1)
        gradients = run.likelihood_gradient(joint, create_graph=self.order == 2)
        if self.order == 2:
            gradients = {n: _second_order(run, joint, g, n) for n, g in gradients.items()}
        sites = detached(joint.sites)
        scores = {n: g.detach() + sites[n].log_prior for n, g in gradients.items()}
        log_probs = {n: (s / self.temperature).log_softmax(-1) for n, s in scores.items()}
        counts = {n: joint.num_observations(s) for n, s in sites.items()}
        for calibration in self._calibrations():
            # A calibration belongs to a site by name; one alone belongs to the only site.
            name = calibration.site if len(log_probs) > 1 else next(iter(log_probs))
            if name not in log_probs:
                raise ValueError(
                    f"calibration for site {name!r}, but the model has {list(log_probs)}"
                )
            log_probs[name] = calibration(log_probs[name], counts[name])
        words = {1: "one step", 2: "one step, second order"}[self.order]
        return TaskPosterior(
            log_probs,
            sites,
            method=words + (", calibrated" if self.calibration else ""),
            settings={
                "temperature": self.temperature,
                "order": self.order,
                "calibration": [_describe(c) for c in self._calibrations()],
            },
            passes=run.passes,
            num_observations=counts,
        )

    def _calibrations(self) -> tuple[Calibration, ...]:
        if self.calibration is None:
            return ()
        return self.calibration if isinstance(self.calibration, tuple) else (self.calibration,)


def _describe(calibration: Calibration) -> dict[str, Any]:
    return {**asdict(calibration), "offsets": calibration.offsets.tolist()}


def _second_order(run: RelaxedModel, joint: LogJoint, gradient: Tensor, name: str) -> Tensor:
    row = hessian_row(run, joint, gradient, name, [name])
    g = gradient.detach()
    return g + 0.5 * row[name].values.diagonal(dim1=-2, dim2=-1).to(g) if row else g
