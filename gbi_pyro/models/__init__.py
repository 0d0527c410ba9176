"""Pyro models with neural likelihoods and marked task sites, and the parts they are made of."""

from gbi_pyro.models._lstm_cell import CarriedLSTM, CellWeights, LSTMState, lstm_step
from gbi_pyro.models.affine_head import AffineHeadAutoencoder, PCABasis, pca_basis
from gbi_pyro.models.conditioning import (
    CONDITIONERS,
    Additive,
    AffineHead,
    Concat,
    Conditioner,
    Conditioning,
    FiLM,
    Gain,
    Hypernetwork,
    Mask,
    make_conditioner,
    parameter_count,
    width_for,
)
from gbi_pyro.models.feature_em import feature_em, responsibilities, split_prototypes
from gbi_pyro.models.feature_gaussian import FeatureGaussian
from gbi_pyro.models.feature_moments import FeatureMoments, feature_moments
from gbi_pyro.models.image import (
    ConditionedAutoencoder,
    ConditionedDecoder,
    EncoderClassifier,
    ImageModel,
    Likelihood,
)
from gbi_pyro.models.initial import initialise, weights_from
from gbi_pyro.models.language import LanguageLSTM
from gbi_pyro.models.language_model import LanguageModel
from gbi_pyro.models.layers import ImageEncoder, IsotropicNormal, Latent, Network, make_decoder
from gbi_pyro.models.patch_features import PatchFeatures
from gbi_pyro.models.saved import Rebuildable, load_network, save_networks
from gbi_pyro.models.sequence import SequenceLSTM, SequenceLSTMStack, StepsOfLSTM
from gbi_pyro.models.switching import SwitchingGaussian
from gbi_pyro.models.transformer import CarriedWords, LanguageTransformer
from gbi_pyro.models.words import Words

__all__ = [
    "CONDITIONERS",
    "Additive",
    "AffineHead",
    "AffineHeadAutoencoder",
    "CarriedLSTM",
    "CarriedWords",
    "CellWeights",
    "Concat",
    "ConditionedAutoencoder",
    "ConditionedDecoder",
    "Conditioner",
    "Conditioning",
    "EncoderClassifier",
    "FeatureGaussian",
    "FeatureMoments",
    "FiLM",
    "Gain",
    "Hypernetwork",
    "ImageEncoder",
    "ImageModel",
    "IsotropicNormal",
    "LSTMState",
    "LanguageLSTM",
    "LanguageModel",
    "LanguageTransformer",
    "Latent",
    "Likelihood",
    "Mask",
    "Network",
    "PCABasis",
    "PatchFeatures",
    "Rebuildable",
    "SequenceLSTM",
    "SequenceLSTMStack",
    "StepsOfLSTM",
    "SwitchingGaussian",
    "Words",
    "feature_em",
    "feature_moments",
    "initialise",
    "load_network",
    "lstm_step",
    "make_conditioner",
    "make_decoder",
    "parameter_count",
    "pca_basis",
    "responsibilities",
    "save_networks",
    "split_prototypes",
    "weights_from",
    "width_for",
]
