"""Task posteriors for ArviZ, with named dimensions."""

from gbi_pyro.export.chains import chain_posteriors, stream_posterior
from gbi_pyro.export.given_draws import GivenDraws, TaskDraws
from gbi_pyro.export.inference_data import save_inference_data, to_inference_data
from gbi_pyro.export.marginal_draws import MarginalDraws, marginal_draws
from gbi_pyro.export.posterior_predictive import PosteriorPredictive, posterior_predictive

__all__ = [
    "GivenDraws",
    "MarginalDraws",
    "PosteriorPredictive",
    "TaskDraws",
    "chain_posteriors",
    "marginal_draws",
    "posterior_predictive",
    "save_inference_data",
    "stream_posterior",
    "to_inference_data",
]
