"""Measures of how good a task posterior, a network or a model is.

Proper scores, calibration and its test, agreement with the exact posterior, simulation-based
calibration, importance correction, intervals, recalibration, comparison of models, prequential
code, out-of-distribution scores (``ood``), continual learning and use of the task. Of
sequences: dwell times, switches, autocorrelation, psychometric curves, posterior predictive checks.
``gbi_pyro.metrics.runs`` compares finished runs on disk; it draws, and is imported by itself.
"""

from gbi_pyro.metrics import ood
from gbi_pyro.metrics.agreement import (
    Agreement,
    LogOdds,
    agreement,
    argmax_agreement,
    kl,
    log_odds,
    total_variation,
)
from gbi_pyro.metrics.auroc import AUROC, auroc
from gbi_pyro.metrics.autocorrelation import autocorrelation
from gbi_pyro.metrics.calibration_test import CalibrationTest, Deviation, calibration_test
from gbi_pyro.metrics.comparison import Score, compare_models, leave_one_out, one_step_ahead
from gbi_pyro.metrics.continual import Continual, continual_learning
from gbi_pyro.metrics.credible import CredibleCoverage, credible_coverage, credible_set
from gbi_pyro.metrics.decomposition import BrierDecomposition, brier_decomposition
from gbi_pyro.metrics.dwell import (
    DwellTimes,
    dwell_law,
    dwell_times,
    num_switches,
    path_statistics,
)
from gbi_pyro.metrics.importance import ImportanceCorrection, effective_share, importance_correction
from gbi_pyro.metrics.intervals import (
    Difference,
    Interval,
    jeffreys_interval,
    paired_bootstrap,
    student_interval,
)
from gbi_pyro.metrics.predictive_check import (
    PredictiveCheck,
    predictive_check,
    tail_probability,
)
from gbi_pyro.metrics.prequential import (
    OnlineLearner,
    SwitchingMeans,
    SwitchingState,
    fewest_nats,
    prequential_code,
)
from gbi_pyro.metrics.psychometric import Psychometric, psychometric
from gbi_pyro.metrics.ranks import RankHistogram, RankTest, rank_histogram, rank_test
from gbi_pyro.metrics.recalibration import (
    NoTemperatureError,
    fit_temperature,
    match_temperature,
    temper,
)
from gbi_pyro.metrics.reliability import (
    ReliabilityTable,
    classwise_calibration_error,
    reliability_table,
)
from gbi_pyro.metrics.sbc import SBCCheck, SBCResult, check_sbc, run_sbc
from gbi_pyro.metrics.scores import (
    CalibrationSummary,
    accuracy,
    brier,
    expected_calibration_error,
    log_score,
    summarise,
)
from gbi_pyro.metrics.selective import RiskCoverage, risk_coverage
from gbi_pyro.metrics.survival import Survival, kaplan_meier
from gbi_pyro.metrics.table import Cell, Table, format_number
from gbi_pyro.metrics.task_use import TaskTransfer, TaskUse, task_gain, task_transfer

__all__ = [
    "AUROC",
    "Agreement",
    "BrierDecomposition",
    "CalibrationSummary",
    "CalibrationTest",
    "Cell",
    "Continual",
    "CredibleCoverage",
    "Deviation",
    "Difference",
    "DwellTimes",
    "ImportanceCorrection",
    "Interval",
    "LogOdds",
    "NoTemperatureError",
    "OnlineLearner",
    "PredictiveCheck",
    "Psychometric",
    "RankHistogram",
    "RankTest",
    "ReliabilityTable",
    "RiskCoverage",
    "SBCCheck",
    "SBCResult",
    "Score",
    "Survival",
    "SwitchingMeans",
    "SwitchingState",
    "Table",
    "TaskTransfer",
    "TaskUse",
    "accuracy",
    "agreement",
    "argmax_agreement",
    "auroc",
    "autocorrelation",
    "brier",
    "brier_decomposition",
    "calibration_test",
    "check_sbc",
    "classwise_calibration_error",
    "compare_models",
    "continual_learning",
    "credible_coverage",
    "credible_set",
    "dwell_law",
    "dwell_times",
    "effective_share",
    "expected_calibration_error",
    "fewest_nats",
    "fit_temperature",
    "format_number",
    "importance_correction",
    "jeffreys_interval",
    "kaplan_meier",
    "kl",
    "leave_one_out",
    "log_odds",
    "log_score",
    "match_temperature",
    "num_switches",
    "one_step_ahead",
    "ood",
    "paired_bootstrap",
    "path_statistics",
    "predictive_check",
    "prequential_code",
    "psychometric",
    "rank_histogram",
    "rank_test",
    "reliability_table",
    "risk_coverage",
    "run_sbc",
    "student_interval",
    "summarise",
    "tail_probability",
    "task_gain",
    "task_transfer",
    "temper",
    "total_variation",
]
