"""What the study of sequences measures of one seed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from studies.sequences.fits import Fitted
from studies.sequences.one_step import ChainEstimate
from studies.sequences.strategies import Strategies


@dataclass(frozen=True)
class LinearSeed:
    """Regressions with states that switch, by number of states; 1 is the GLM.

    Attributes:
        fits: the fitted models.
        scores: log p(choices) of each held-out session, by name of the model, ``(S,)``.
        one_step: estimates of the chain's posterior, by number of states and way.
        strategies: the states of the model whose number validation sessions chose.
    """

    fits: dict[int, Fitted]
    scores: dict[str, Tensor]
    one_step: dict[int, dict[str, ChainEstimate]]
    strategies: Strategies


@dataclass(frozen=True)
class DrivenSeed:
    """The same with transitions driven by the outcome of the trial that is left.

    Attributes:
        fits: by number of states.
        scores: as in ``LinearSeed``.
    """

    fits: dict[int, Fitted]
    scores: dict[str, Tensor]


@dataclass(frozen=True)
class NeuralSeed:
    """States with a network each, by number of states.

    Attributes:
        fits: at the decay that validation sessions chose.
        scores: as in ``LinearSeed``.
        one_step: as in ``LinearSeed``, of several states.
    """

    fits: dict[int, Fitted]
    scores: dict[str, Tensor]
    one_step: dict[int, dict[str, ChainEstimate]]


@dataclass(frozen=True)
class GRUSeed:
    """The recurrent rival.

    Attributes:
        weights: of the network.
        score: log p(choices) of each held-out session, ``(S,)``.
        seconds: of the processor.
    """

    weights: dict[str, Tensor]
    score: Tensor
    seconds: float
