"""Infer which task is going on, with calibrated uncertainty.

Gradient-based inference of task abstractions (GBI; Hummos et al., arXiv 2407.17356) for any Pyro
model with marked task sites. Every approximation can be compared with the exact posterior.

Names and sub-packages are loaded when they are first used, so that ``import gbi_pyro`` is fast.

>>> import gbi_pyro as gbi
>>> gbi.TaskPosterior.__module__
'gbi_pyro.posterior'
>>> gbi.metrics.kl.__module__
'gbi_pyro.metrics.agreement'
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gbi_pyro import (
        data,
        estimators,
        export,
        inference,
        learning,
        metrics,
        models,
        plots,
        problems,
        representation,
    )
    from gbi_pyro.check import check_model
    from gbi_pyro.data import Sessions
    from gbi_pyro.export import to_inference_data
    from gbi_pyro.inference import (
        AutoTaskGuide,
        BayesFilter,
        Calibration,
        Enumeration,
        IterativeGradient,
        LearnedChain,
        OneStepGradient,
        OnlineGradient,
        Rescored,
        SecondOrderJoint,
        TaskChain,
        TaskGibbs,
        TaskPrior,
        calibrate,
        hmm_posterior,
        hsmm_posterior,
        log_likelihoods,
        marginalize,
        stepwise,
    )
    from gbi_pyro.learning import GradientEM, OnlineEM, clamped_loss, fit_marginal
    from gbi_pyro.logjoint import relaxed_log_joint
    from gbi_pyro.posterior import TaskPosterior
    from gbi_pyro.relax import clamp_tasks
    from gbi_pyro.sites import TaskSiteError, find_task_sites
    from gbi_pyro.tracker import Tracker

_PACKAGES = (
    "data",
    "estimators",
    "export",
    "inference",
    "learning",
    "metrics",
    "models",
    "plots",
    "problems",
    "representation",
)
_NAMES = {
    "check": ("check_model",),
    "data": ("Sessions",),
    "export": ("to_inference_data",),
    "inference": (
        "AutoTaskGuide",
        "BayesFilter",
        "Calibration",
        "Enumeration",
        "IterativeGradient",
        "LearnedChain",
        "OneStepGradient",
        "OnlineGradient",
        "Rescored",
        "SecondOrderJoint",
        "TaskChain",
        "TaskGibbs",
        "TaskPrior",
        "calibrate",
        "hmm_posterior",
        "hsmm_posterior",
        "log_likelihoods",
        "marginalize",
        "stepwise",
    ),
    "learning": ("GradientEM", "OnlineEM", "clamped_loss", "fit_marginal"),
    "logjoint": ("relaxed_log_joint",),
    "posterior": ("TaskPosterior",),
    "relax": ("clamp_tasks",),
    "sites": ("TaskSiteError", "find_task_sites"),
    "tracker": ("Tracker",),
}
"""The public names, by the module or package that holds them."""
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__version__ = version("gbi-pyro")
__all__ = [
    "AutoTaskGuide",
    "BayesFilter",
    "Calibration",
    "Enumeration",
    "GradientEM",
    "IterativeGradient",
    "LearnedChain",
    "OneStepGradient",
    "OnlineEM",
    "OnlineGradient",
    "Rescored",
    "SecondOrderJoint",
    "Sessions",
    "TaskChain",
    "TaskGibbs",
    "TaskPosterior",
    "TaskPrior",
    "TaskSiteError",
    "Tracker",
    "calibrate",
    "check_model",
    "clamp_tasks",
    "clamped_loss",
    "data",
    "estimators",
    "export",
    "find_task_sites",
    "fit_marginal",
    "hmm_posterior",
    "hsmm_posterior",
    "inference",
    "learning",
    "log_likelihoods",
    "marginalize",
    "metrics",
    "models",
    "plots",
    "problems",
    "relaxed_log_joint",
    "representation",
    "stepwise",
    "to_inference_data",
]


def __getattr__(name: str) -> Any:
    """Load a public name, or a sub-package, when it is first asked for (PEP 562)."""
    if name in _PACKAGES:
        return importlib.import_module(f"gbi_pyro.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'gbi_pyro' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gbi_pyro.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
