"""Infer which task is going on, with calibrated uncertainty.

Gradient-based inference of task abstractions (GBI; Hummos et al., arXiv 2407.17356) for any Pyro
model with marked task sites. Every approximation can be compared with the exact posterior.

Names are loaded when they are first used, so that ``import gbi_pyro`` itself costs nothing.

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
    from gbi_pyro import data, export, inference, learning, metrics, models, plots
    from gbi_pyro.check import check_model
    from gbi_pyro.export.inference_data import to_inference_data
    from gbi_pyro.inference.autoguide import AutoTaskGuide
    from gbi_pyro.inference.calibration import Calibration, calibrate
    from gbi_pyro.inference.chain import BayesFilter
    from gbi_pyro.inference.enumeration import Enumeration
    from gbi_pyro.inference.gradient import OneStepGradient
    from gbi_pyro.inference.hmm import hmm_posterior, hsmm_posterior
    from gbi_pyro.inference.iterative import IterativeGradient
    from gbi_pyro.inference.log_likelihoods import log_likelihoods
    from gbi_pyro.inference.online import OnlineGradient
    from gbi_pyro.inference.stepwise import stepwise
    from gbi_pyro.learning.em import GradientEM
    from gbi_pyro.learning.online_em import OnlineEM
    from gbi_pyro.learning.task_prior import TaskChain, TaskPrior
    from gbi_pyro.learning.weights import clamped_loss
    from gbi_pyro.logjoint import relaxed_log_joint
    from gbi_pyro.posterior import TaskPosterior
    from gbi_pyro.relax import clamp_tasks
    from gbi_pyro.sites import TaskSiteError, find_task_sites

_MODULES = {
    "AutoTaskGuide": "inference.autoguide",
    "BayesFilter": "inference.chain",
    "Calibration": "inference.calibration",
    "Enumeration": "inference.enumeration",
    "GradientEM": "learning.em",
    "IterativeGradient": "inference.iterative",
    "OneStepGradient": "inference.gradient",
    "OnlineEM": "learning.online_em",
    "OnlineGradient": "inference.online",
    "TaskChain": "learning.task_prior",
    "TaskPosterior": "posterior",
    "TaskPrior": "learning.task_prior",
    "TaskSiteError": "sites",
    "calibrate": "inference.calibration",
    "check_model": "check",
    "clamp_tasks": "relax",
    "clamped_loss": "learning.weights",
    "find_task_sites": "sites",
    "hmm_posterior": "inference.hmm",
    "hsmm_posterior": "inference.hmm",
    "log_likelihoods": "inference.log_likelihoods",
    "relaxed_log_joint": "logjoint",
    "stepwise": "inference.stepwise",
    "to_inference_data": "export.inference_data",
}
"""In which module each public name lies."""
_PACKAGES = ("data", "export", "inference", "learning", "metrics", "models", "plots")

__version__ = version("gbi-pyro")
__all__ = [
    "AutoTaskGuide",
    "BayesFilter",
    "Calibration",
    "Enumeration",
    "GradientEM",
    "IterativeGradient",
    "OneStepGradient",
    "OnlineEM",
    "OnlineGradient",
    "TaskChain",
    "TaskPosterior",
    "TaskPrior",
    "TaskSiteError",
    "calibrate",
    "check_model",
    "clamp_tasks",
    "clamped_loss",
    "data",
    "export",
    "find_task_sites",
    "hmm_posterior",
    "hsmm_posterior",
    "inference",
    "learning",
    "log_likelihoods",
    "metrics",
    "models",
    "plots",
    "relaxed_log_joint",
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
