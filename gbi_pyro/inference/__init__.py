"""From a Pyro model and its data to a posterior over tasks.

Every inference is called as ``infer(model, *args) -> TaskPosterior``: one gradient step, iterated
steps, enumeration, exact chains, amortised networks; calibration of the cheap ones.
"""

from gbi_pyro.inference._counts import Counts, Explained
from gbi_pyro.inference.autoguide import AutoTaskGuide
from gbi_pyro.inference.autoregressive import AutoregressiveRecogniser
from gbi_pyro.inference.autoregressive_joint import AutoregressiveJoint
from gbi_pyro.inference.calibration import Calibration, calibrate
from gbi_pyro.inference.centroid import NearestCentroid, fit_centroids
from gbi_pyro.inference.chain import BayesFilter, TaskStream
from gbi_pyro.inference.chain_posterior import ChainPosterior
from gbi_pyro.inference.chain_stream import ChainStream, StreamState, StreamStep
from gbi_pyro.inference.curvature import SecondOrderJoint
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.flow import GradientFlow, HorizonGradient
from gbi_pyro.inference.gibbs import TaskGibbs
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.inference.hmm import (
    HMMPosterior,
    hmm_log_evidence,
    hmm_posterior,
    hsmm_posterior,
    log_pairwise,
)
from gbi_pyro.inference.iterative import IterativeGradient
from gbi_pyro.inference.joint_losses import (
    ForwardKL,
    JointLoss,
    ReverseKL,
    TrainingBatch,
    TrajectoryBalance,
)
from gbi_pyro.inference.joint_recogniser import JointRecogniser
from gbi_pyro.inference.learned_chain import LearnedChain, negative_binomial
from gbi_pyro.inference.local import LocalRecogniser
from gbi_pyro.inference.log_likelihoods import log_likelihoods
from gbi_pyro.inference.marginal import Marginal, marginalize
from gbi_pyro.inference.mean_field import CoordinateGradient
from gbi_pyro.inference.online import OnlineGradient, OnlineRun, StepsAhead
from gbi_pyro.inference.pairwise_joint import PairwiseJoint
from gbi_pyro.inference.recogniser import Dream, Recogniser, dream, forward_kl_loss, reverse_kl_loss
from gbi_pyro.inference.refiner import LearnedRefiner
from gbi_pyro.inference.refiner_network import RefinerNetwork
from gbi_pyro.inference.rescoring import Rescored, ShortlistWarning
from gbi_pyro.inference.simulator import Drawn, Simulator
from gbi_pyro.inference.smc import TaskSMC
from gbi_pyro.inference.stepwise import CarriesState, stepwise
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.inference.task_prior import TaskPrior
from gbi_pyro.inference.trajectory import TrajectorySampler

__all__ = [
    "AutoTaskGuide",
    "AutoregressiveJoint",
    "AutoregressiveRecogniser",
    "BayesFilter",
    "Calibration",
    "CarriesState",
    "ChainPosterior",
    "ChainStream",
    "CoordinateGradient",
    "Counts",
    "Drawn",
    "Dream",
    "Enumeration",
    "Explained",
    "ForwardKL",
    "GradientFlow",
    "HMMPosterior",
    "HorizonGradient",
    "IterativeGradient",
    "JointLoss",
    "JointRecogniser",
    "LearnedChain",
    "LearnedRefiner",
    "LocalRecogniser",
    "Marginal",
    "NearestCentroid",
    "OneStepGradient",
    "OnlineGradient",
    "OnlineRun",
    "PairwiseJoint",
    "Recogniser",
    "RefinerNetwork",
    "Rescored",
    "ReverseKL",
    "SecondOrderJoint",
    "ShortlistWarning",
    "Simulator",
    "StepsAhead",
    "StreamState",
    "StreamStep",
    "TaskChain",
    "TaskGibbs",
    "TaskPrior",
    "TaskSMC",
    "TaskStream",
    "TrainingBatch",
    "TrajectoryBalance",
    "TrajectorySampler",
    "calibrate",
    "dream",
    "fit_centroids",
    "forward_kl_loss",
    "hmm_log_evidence",
    "hmm_posterior",
    "hsmm_posterior",
    "log_likelihoods",
    "log_pairwise",
    "marginalize",
    "negative_binomial",
    "reverse_kl_loss",
    "stepwise",
]
