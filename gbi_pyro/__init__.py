"""Infer which task is going on, and say how sure the answer is.

Gradient-based inference of task abstractions (GBI; Hummos et al., arXiv 2407.17356) for any Pyro
model with marked task sites, with the exact posterior beside every estimate.
"""

from gbi_pyro.diagnostics.export import to_inference_data
from gbi_pyro.inference.autoguide import AutoTaskGuide
from gbi_pyro.inference.calibration import Calibration, calibrate
from gbi_pyro.inference.causal import causal
from gbi_pyro.inference.chain import BayesFilter
from gbi_pyro.inference.em import GradientEM
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.hmm import hmm_posterior, hsmm_posterior
from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.inference.online import OnlineGradient
from gbi_pyro.inference.online_em import OnlineEM
from gbi_pyro.inference.task_prior import TaskChain, TaskPrior
from gbi_pyro.inference.weights import clamped_loss
from gbi_pyro.logjoint import relaxed_log_joint
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import relax_tasks
from gbi_pyro.sites import TaskSiteError, find_task_sites

__version__ = "0.1.0"

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
    "causal",
    "clamped_loss",
    "find_task_sites",
    "hmm_posterior",
    "hsmm_posterior",
    "relax_tasks",
    "relaxed_log_joint",
    "to_inference_data",
]
