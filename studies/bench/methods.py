"""The methods that are compared, by name; a method infers at once, or is fitted first.

A method is called as ``infer(model, *args)`` and returns a ``TaskPosterior``. One that has ``fit``
is given the problem before, ``fit(problem, generator)``, and returns what infers: it draws cases of
its own, which it is not judged on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch

from gbi_pyro.inference.calibration import calibrate
from gbi_pyro.inference.curvature import SecondOrderJoint
from gbi_pyro.inference.gibbs import TaskGibbs
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.inference.mean_field import CoordinateGradient
from gbi_pyro.inference.rescoring import Rescored
from gbi_pyro.inference.smc import TaskSMC
from gbi_pyro.logjoint import RelaxedModel
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.problems import Problem
from gbi_pyro.relax import Model

Infer = Callable[..., TaskPosterior]
"""Infers the tasks of ``model`` called with ``args``: ``infer(model, *args)``."""


class Learner(Protocol):
    """What has to be fitted to a problem before it infers."""

    def fit(self, problem: Problem, generator: torch.Generator) -> Infer:
        """Return the fitted inference."""


Method = Infer | Learner


def is_learner(method: Method) -> bool:
    """Whether a method has to be fitted first."""
    return hasattr(method, "fit")


def fitted(method: Method, problem: Problem, generator: torch.Generator) -> Infer:
    """Return what infers: the method itself, or what its fit returns."""
    if is_learner(method):
        return cast(Learner, method).fit(problem, generator)
    return cast(Infer, method)


def prior(model: Model, *args: Any) -> TaskPosterior:
    """Return the prior of every task site, without a look at the data."""
    run = RelaxedModel(model, args)
    joint = run.log_joint(lambda site: site.uniform())
    run.count(forward=1)
    sites = detached(joint.sites)
    log_probs = {name: site.log_prior.log_softmax(-1) for name, site in sites.items()}
    return TaskPosterior(log_probs, sites, "prior", passes=run.passes)


@dataclass(frozen=True)
class Calibrated:
    """One gradient step, calibrated to the exact posterior of cases of its own, site by site.

    Attributes:
        cases: how many are drawn for the fit.
        scores: how many combinations are scored for it at most; fewer cases are drawn beyond.
    """

    cases: int = 400
    scores: int = 2**19

    def fit(self, problem: Problem, generator: torch.Generator) -> OneStepGradient:
        """Fit a temperature and offsets for every site."""
        one = problem.draw(1, generator)
        scores = max(1, problem.posterior(one).passes.forward)
        drawn = problem.draw(min(self.cases, max(1, self.scores // scores)), generator)
        one_step, exact = OneStepGradient()(problem.model, *drawn.args), problem.posterior(drawn)
        found = tuple(calibrate(one_step, exact, site=name) for name in exact.sites)
        return OneStepGradient(calibration=found)


@dataclass(frozen=True)
class CalibratedShortlist:
    """A calibrated gradient step whose most probable combinations are scored exactly.

    Attributes:
        num_scored: how many.
    """

    num_scored: int

    def fit(self, problem: Problem, generator: torch.Generator) -> Rescored:
        """Fit the calibration."""
        return Rescored(Calibrated().fit(problem, generator), self.num_scored)


class ExactPosterior:
    """The problem's exact inference: what all others are compared with, and its cost."""

    def fit(self, problem: Problem, generator: torch.Generator) -> Infer:
        """Return it."""
        return problem.exact


class BestProduct:
    """The product of the exact marginals: the least KL(exact || q) of any q without dependence."""

    def fit(self, problem: Problem, generator: torch.Generator) -> Infer:
        """Return the exact inference with its joint posterior left out."""

        def infer(model: Model, *args: Any) -> TaskPosterior:
            exact = problem.exact(model, *args)
            return replace(exact, joint=None, method=PRODUCT)

        return infer


PRIOR, ONE_STEP, CALIBRATED = "prior", "one step", "calibrated one step"
JOINT, JOINT_TWICE = "second-order joint", "second-order joint (2 rounds)"
ITERATIVE, COORDINATE = "iterative", "coordinate gradient"
GIBBS, GRADIENT_GIBBS, SMC = "Gibbs", "Gibbs with gradients", "SMC"
PRODUCT, EXACT = "product of exact marginals", "exact posterior"
SHORTLISTS, JOINT_SHORTLISTS = (4, 8, 16), (16, 64)
MAX_JOINT = 65536
UNCHECKED = SecondOrderJoint(max_joint=MAX_JOINT, check=False)  # it only has to rank


def rescored(name: str, number: int) -> str:
    """Return the name of a method whose most probable combinations are scored exactly."""
    return f"{name} + {number} rescored"


METHODS: dict[str, Method] = {
    PRIOR: prior,
    ONE_STEP: OneStepGradient(),
    CALIBRATED: Calibrated(),
    **{rescored(ONE_STEP, m): Rescored(OneStepGradient(), m) for m in SHORTLISTS},
    rescored(CALIBRATED, 8): CalibratedShortlist(8),
    JOINT: SecondOrderJoint(max_joint=MAX_JOINT),
    JOINT_TWICE: SecondOrderJoint(rounds=2, max_joint=MAX_JOINT),
    **{rescored(JOINT, m): Rescored(UNCHECKED, m) for m in JOINT_SHORTLISTS},
    ITERATIVE: IterativeGradient(num_steps=50, optim="adam", rate=0.2),
    COORDINATE: CoordinateGradient(),
    GIBBS: TaskGibbs(),
    GRADIENT_GIBBS: TaskGibbs(proposals="gradient"),
    SMC: TaskSMC(),
    PRODUCT: BestProduct(),
    EXACT: ExactPosterior(),
}
"""The methods of a run, in the order of its table; names have no commas, which part them."""
