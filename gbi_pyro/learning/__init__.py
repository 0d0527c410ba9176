"""Learning of weights and tasks, with task labels or without.

Weights with given tasks, expectation maximisation in batches and online, priors over tasks,
restarts, the number of tasks, reports of collapse, and labels known for some elements.
"""

from gbi_pyro.learning.collapse import (
    CollapseReport,
    CollapseWarning,
    find_collapse,
    report_collapse,
)
from gbi_pyro.learning.compare_num_tasks import NumTasksComparison, compare_num_tasks
from gbi_pyro.learning.convergence import ConvergenceWarning, EMFit
from gbi_pyro.learning.data_parallel import data_parallel_loss
from gbi_pyro.learning.em import GradientEM
from gbi_pyro.learning.em_step import EMStep
from gbi_pyro.learning.fit_marginal import Fit, fit_marginal
from gbi_pyro.learning.labels import clamp_log_likelihoods, match_labels, order_tasks
from gbi_pyro.learning.m_step import TaskTable, mixture_log_joint, task_table
from gbi_pyro.learning.num_tasks import TaskChoice, Trained, choose_num_tasks, one_standard_error
from gbi_pyro.learning.online_em import OnlineEM, OnlineEMRun, OnlineEMStep
from gbi_pyro.learning.online_hypotheses import OnlineHypotheses
from gbi_pyro.learning.restarts import Restarts, best_of, window_labels
from gbi_pyro.learning.weights import clamped_loss

__all__ = [
    "CollapseReport",
    "CollapseWarning",
    "ConvergenceWarning",
    "EMFit",
    "EMStep",
    "Fit",
    "GradientEM",
    "NumTasksComparison",
    "OnlineEM",
    "OnlineEMRun",
    "OnlineEMStep",
    "OnlineHypotheses",
    "Restarts",
    "TaskChoice",
    "TaskTable",
    "Trained",
    "best_of",
    "choose_num_tasks",
    "clamp_log_likelihoods",
    "clamped_loss",
    "compare_num_tasks",
    "data_parallel_loss",
    "find_collapse",
    "fit_marginal",
    "match_labels",
    "mixture_log_joint",
    "one_standard_error",
    "order_tasks",
    "report_collapse",
    "task_table",
    "window_labels",
]
