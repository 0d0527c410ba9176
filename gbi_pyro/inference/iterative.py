"""Iterated gradient ascent on a task: on the simplex, or free to leave the hull of the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from gbi_pyro.inference._options import check_numbers
from gbi_pyro.logjoint import LogJoint, RelaxedModel
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.relax import Model, as_point, check_names, check_value
from gbi_pyro.sites import TaskSite

Optim = Literal["sgd", "adam", "mirror"]
Regularizer = Literal["entropy", "l2"]
Space = Literal["simplex", "free"]


@dataclass(frozen=True)
class IterativeGradient:
    r"""Infer the task by ascending f_T(q) = l(q) + T H(q), step by step.

    On the simplex the ascent runs in the logits y of q = softmax(y). ``"sgd"`` and ``"adam"`` are
    the optimisers of torch; ``"mirror"`` is exponentiated gradient, y += rate (g - T log q), whose
    first step from maximum entropy at rate 1 / T is ``OneStepGradient``. Adam's first step is a
    sign and no estimate: give it several steps.

    In free space Z itself is optimised, unsquashed, and may leave the hull of the training tasks:
    that is how a network adapts to a task between or beyond those it knows. The result's
    ``point()`` is Z; its ``probs()`` are the nearest point of the simplex.

    The maximiser is a point that explains the data well, not the posterior, unless l is affine.

    Args:
        num_steps: number of steps, each one forward and one backward pass.
        rate: step size.
        optim: ``"sgd"``, ``"adam"`` or ``"mirror"``.
        temperature: T, weight of the regularizer, >= 0.
        regularizer: ``"entropy"``, H(q) itself; or ``"l2"``, the paper's penalty on the logits,
            -|y - mean y|^2 / 2K, which agrees with the entropy (up to a constant) near maximum
            entropy only. In free space it pulls Z to the middle, -|Z - u|^2 / 2; a uniform prior
            does not pull there, and a non-uniform one enters as Z . (log pi - mean log pi).
        space: ``"simplex"`` or ``"free"``.
        start: points to start from (a warm start): an earlier posterior, or values by site.
        keep_path: keep Z after every step.

    Raises:
        ValueError: for options that do not fit together.
        TypeError: for an option of another type.
        TaskSiteError: see ``RelaxedModel``.
    """

    num_steps: int = 50
    rate: float = 1.0
    optim: Optim = "mirror"
    temperature: float = 1.0
    regularizer: Regularizer = "entropy"
    space: Space = "simplex"
    start: TaskPosterior | Mapping[str, Tensor] | None = field(default=None, repr=False)
    keep_path: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "rate", "temperature", integers=("num_steps",))
        if not (self.start is None or isinstance(self.start, (TaskPosterior, Mapping))):
            raise TypeError(
                "start of IterativeGradient should be a TaskPosterior or map names of task sites "
                f"to points, {{'z': q}}; got a {type(self.start).__name__}"
            )
        if isinstance(self.start, TaskPosterior):
            object.__setattr__(self, "start", self.start.in_model_order())
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        for option, known in (
            ("optim", ("sgd", "adam", "mirror")),
            ("regularizer", ("entropy", "l2")),
            ("space", ("simplex", "free")),
        ):
            if getattr(self, option) not in known:
                raise ValueError(f"{option} must be one of {known}, got {getattr(self, option)!r}")
        if self.optim == "mirror" and (self.regularizer, self.space) != ("entropy", "simplex"):
            raise ValueError(
                "optim='mirror' ascends the entropy-regularized objective on the simplex; for "
                "regularizer='l2' or space='free' take optim='sgd' or 'adam'"
            )
        if self.space == "free" and self.regularizer == "entropy" and self.temperature > 0:
            raise ValueError(
                "the entropy is not defined off the simplex: in space='free' take "
                "regularizer='l2', or temperature=0"
            )

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        run = RelaxedModel(model, args, kwargs)
        free = self.space == "free"
        states: dict[str, Tensor] = {}  # logits on the simplex, Z itself in free space

        def point(site: TaskSite) -> Tensor:
            if site.name not in states:
                states[site.name] = self._start(site)
            state = states[site.name]
            return state if free else state.softmax(-1)

        path: dict[str, list[Tensor]] = {}
        optimiser: torch.optim.Optimizer | None = None
        for _ in range(self.num_steps):
            joint = run.log_joint(point, order=1, on_simplex=not free)
            run.count(forward=1)
            if isinstance(self.start, Mapping):
                check_names(self.start, joint.sites)
            gradients = run.likelihood_gradient(joint)
            if optimiser is None and self.optim != "mirror":
                make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[self.optim]
                optimiser = make(list(states.values()), lr=self.rate, maximize=True)
            for name, site in joint.sites.items():
                if self.keep_path:
                    # A copy: the optimiser moves the state itself.
                    path.setdefault(name, []).append(joint.values[name].detach().clone())
                states[name].grad = self._ascent(states[name], gradients[name], site)
            if optimiser is not None:
                optimiser.step()
            else:
                for state in states.values():
                    assert state.grad is not None
                    state.copy_((state + self.rate * state.grad).log_softmax(-1))
        return self._result(run, joint, states, path)

    def _start(self, site: TaskSite) -> Tensor:
        if self.start is None:
            value = _middle(site)
        elif isinstance(self.start, TaskPosterior):
            value = self.start.point(site.name)
        else:
            value = as_point(site, self.start.get(site.name, _middle(site)))
        check_value(site, value, on_simplex=self.space == "simplex")
        forbidden = site.log_prior.isneginf()
        if self.space == "free":
            return value.masked_fill(forbidden, 0.0)
        if isinstance(self.start, TaskPosterior):  # go on exactly where the earlier ascent stands
            return self.start.logits(site.name).masked_fill(forbidden, -torch.inf)
        # A start at a corner would have no way back: its gradient in the logits is zero.
        smallest = torch.finfo(value.dtype).eps
        return value.clamp_min(smallest).log().masked_fill(forbidden, -torch.inf)

    def _ascent(self, state: Tensor, likelihood_gradient: Tensor, site: TaskSite) -> Tensor:
        """Return the direction of ascent for a state; tasks that the prior forbids stay put."""
        log_prior = site.log_prior.detach()
        forbidden = log_prior.isneginf()
        log_prior, middle = log_prior.masked_fill(forbidden, 0.0), _middle(site)
        if self.space == "free":
            # A constant in the log prior means nothing on the simplex, and would push Z off it.
            pull = log_prior - (middle * log_prior).sum(-1, keepdim=True)
            return (likelihood_gradient + pull - self.temperature * (state - middle)).masked_fill(
                forbidden, 0.0
            )
        slope = (likelihood_gradient + log_prior).masked_fill(forbidden, 0.0)
        log_q = state.log_softmax(-1).masked_fill(forbidden, 0.0)
        if self.regularizer == "entropy":
            slope = slope - self.temperature * log_q
        if self.optim == "mirror":
            return slope
        q = state.softmax(-1)
        in_logits = q * (slope - (q * slope).sum(-1, keepdim=True))
        if self.regularizer == "l2":
            # Over the allowed tasks, which number K; a constant in the logits changes nothing.
            mean = (middle * log_q).sum(-1, keepdim=True)
            in_logits = in_logits - self.temperature * middle * (log_q - mean)
        return in_logits

    def _result(
        self,
        run: RelaxedModel,
        joint: LogJoint,
        states: dict[str, Tensor],
        path: dict[str, list[Tensor]],
    ) -> TaskPosterior:
        free = self.space == "free"
        log_probs = {
            n: _to_simplex(s, joint.sites[n].log_prior.isneginf()).log()
            if free
            else s.log_softmax(-1)
            for n, s in states.items()
        }
        ends = {n: s if free else s.softmax(-1) for n, s in states.items()}
        return TaskPosterior(
            log_probs,
            detached(joint.sites),
            method=f"iterative, {self.num_steps} steps of {self.optim}" + ", free" * free,
            settings={
                "num_steps": self.num_steps,
                "rate": self.rate,
                "optim": self.optim,
                "temperature": self.temperature,
                "regularizer": self.regularizer,
                "space": self.space,
                "warm_start": self.start is not None,
            },
            passes=run.passes,
            num_observations={n: joint.num_observations(s) for n, s in joint.sites.items()},
            points=ends if free else {},
            path={n: torch.stack([*p, ends[n]]) for n, p in path.items()},
        )


def _middle(site: TaskSite) -> Tensor:
    """Return the maximum-entropy point of the tasks that the prior allows."""
    allowed = (~site.log_prior.isneginf()).to(site.log_prior.dtype)
    return allowed / allowed.sum(-1, keepdim=True)


def _to_simplex(z: Tensor, forbidden: Tensor) -> Tensor:
    """Return the nearest point of the simplex of allowed tasks (Euclidean), over the last dim.

    The projection is max(z - c, 0) with c chosen so that it sums to 1: among the sorted values,
    the threshold is set by the largest set whose members stay positive.
    """
    z = z.masked_fill(forbidden, -torch.inf)
    ordered = z.sort(-1, descending=True).values
    rank = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    thresholds = (ordered.cumsum(-1) - 1) / rank
    size = (ordered > thresholds).sum(-1, keepdim=True)
    return (z - thresholds.gather(-1, size - 1)).clamp_min(0)
