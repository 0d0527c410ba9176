"""What validation sessions choose: numbers of states, weight decays, and when the GRU stops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from studies.core.protocol import Report
from studies.sequences.config import SequencesConfig, generator
from studies.sequences.fits import fit_choices
from studies.sequences.gru import GRUChoice, validation_curve
from studies.sequences.models import ChoiceModel
from studies.sequences.sessions import Split

Key = TypeVar("Key")
VALIDATION_SEED = 1000  # of starts and first weights that no result uses


@dataclass(frozen=True)
class Choices:
    """What was chosen on validation sessions, which are part of the training sessions.

    Attributes:
        scores: nats a trial of the validation sessions, by what was fitted to the others.
        states: the number of linear states.
        driven_states: the same where outcomes drive the transitions.
        decays: precision of the prior over networks' weights, by number of states.
        neural_states: the number of states with a network each, at their decay.
        gru: the rival's settings.
    """

    scores: dict[str, float]
    states: int
    driven_states: int
    decays: dict[int, float]
    neural_states: int
    gru: GRUChoice


def make_choices(config: SequencesConfig, parts: Split, report: Report) -> Choices:
    """Fit everything to some training sessions, and score the others.

    Args:
        config: the study's.
        parts: the sessions; those held out are not looked at.
        report: called with what is being fitted.
    """

    def score(model: ChoiceModel, name: str, *, driven: bool = False) -> float:
        report(f"validation: {name}")
        fitted = fit_choices(
            model,
            parts.fitting,
            starts=config.neural_starts if model.hidden else config.starts,
            seed=VALIDATION_SEED,
            tolerance=config.tolerance,
            driven=driven,
        )
        return fitted.score(parts.validation).sum().item() / parts.validation.num_steps

    scores: dict[str, float] = {}
    linear, moved, neural = {}, {}, {}
    for K in (1, *config.states):
        model, name = ChoiceModel(K, config.precision), state_words(K)
        linear[K] = scores[name] = score(model, name)
        if K > 1:
            moved[K] = scores[f"{name}, driven"] = score(model, f"{name}, driven", driven=True)
    for K in config.neural_states:
        for decay in config.decays:
            name = f"neural, {state_words(K)}, decay {decay:g}"
            model = ChoiceModel(K, decay, config.hidden)
            neural[K, decay] = scores[name] = score(model, name)
    decays = {K: best({d: neural[K, d] for d in config.decays}) for K in config.neural_states}
    gru = {}
    for candidate in _candidates(config):
        report(f"validation: GRU, {candidate}")
        draw = generator(VALIDATION_SEED, "weights of the GRU")
        curve = validation_curve(candidate, parts.fitting, parts.validation, config.gru_rate, draw)
        stop = best(curve)
        chosen = replace(candidate, updates=stop)
        gru[chosen] = scores[f"GRU, {chosen}"] = curve[stop]
    return Choices(
        scores=scores,
        states=best(linear),
        driven_states=best(moved),
        decays=decays,
        neural_states=best({K: neural[K, decays[K]] for K in decays}),
        gru=best(gru),
    )


def _candidates(config: SequencesConfig) -> Iterator[GRUChoice]:
    for units in config.gru_units:
        for decay in config.gru_decays:
            yield GRUChoice(units, decay, config.gru_updates)


def best(scores: Mapping[Key, float]) -> Key:
    """Return the key of the highest score; the first of equal ones.

    >>> best({2: -0.61, 3: -0.6, 4: -0.6})
    3
    """
    return max(scores, key=lambda key: scores[key])


def state_words(num_states: int) -> str:
    """Return a number of states in words.

    >>> state_words(1), state_words(3)
    ('GLM', '3 states')
    """
    return "GLM" if num_states == 1 else f"{num_states} states"
