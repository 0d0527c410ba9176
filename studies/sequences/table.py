"""The table of the study of sequences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gbi_pyro.metrics.intervals import Interval
from gbi_pyro.metrics.predictive_check import tail_probability
from studies.core.table import Row, Target
from studies.sequences.choices import Choices, state_words
from studies.sequences.one_step import EXACT, ChainEstimate
from studies.sequences.record import DrivenSeed, GRUSeed, LinearSeed, NeuralSeed
from studies.sequences.scores import BIT, per_trial
from studies.sequences.strategies import Strategies

GLM, GRU = "GLM", "GRU"
AHEAD = "held-out choices, one trial ahead"
TARGETS = {"3 states": 0.030, "4 states": 0.032}  # bits a trial over the GLM
EARLY, LATE = slice(20), slice(-20, None)  # sessions


class Results(NamedTuple):
    """Everything the rows are made of; records in the order of the seeds.

    Attributes:
        choices: made on validation sessions.
        linear, driven, neural, gru: the records.
        lengths: trials of each held-out session, ``(S,)``.
        num_training: trials of the training sessions.
    """

    choices: Choices
    linear: Sequence[LinearSeed]
    driven: Sequence[DrivenSeed]
    neural: Sequence[NeuralSeed]
    gru: Sequence[GRUSeed]
    lengths: np.ndarray
    num_training: int

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """Log p(choices) of each held-out session by model, ``(seeds, S)``, nats."""
        found: dict[str, list[Tensor]] = {}
        for records in (self.linear, self.driven, self.neural):
            found |= {name: [r.scores[name] for r in records] for name in records[0].scores}
        found[GRU] = [r.score for r in self.gru]
        return {name: np.stack([np.asarray(s) for s in rows]) for name, rows in found.items()}

    def gain(self, name: str, over: str = GLM) -> tuple[np.ndarray, Interval]:
        """Return bits a trial of one model over another, by seed, and their interval."""
        totals = (self.scores[name] - self.scores[over]) / BIT
        by_seed = totals.sum(-1) / self.lengths.sum()
        return by_seed, per_trial(totals.mean(0), self.lengths)

    @property
    def chosen(self) -> dict[str, str]:
        """The model of each kind that validation sessions chose."""
        c = self.choices
        return {
            "linear": state_words(c.states),
            "driven": f"{state_words(c.driven_states)}, driven",
            "neural": f"neural, {state_words(c.neural_states)}",
            GRU: GRU,
        }


def sequences_table(found: Results) -> list[Row]:
    """Return every row."""
    return [
        *_score_rows(found),
        *_choice_rows(found),
        *_rival_rows(found),
        *_one_step_rows(found),
        *_strategy_rows([r.strategies for r in found.linear], found.choices.states),
    ]


def _score_rows(found: Results) -> Iterator[Row]:
    """Return how well each model predicts (S1, S2)."""
    totals = found.scores[GLM]
    yield Row.of(
        "S1",
        f"{AHEAD}, GLM: nats a trial",
        totals.sum(-1) / found.lengths.sum(),
        interval=per_trial(totals.mean(0), found.lengths),
        better="higher",
        note="interval over held-out sessions, as below",
    )
    for name in found.scores:
        if name == GLM:
            continue
        values, interval = found.gain(name)
        target = Target(TARGETS[name], at_least=True) if name in TARGETS else None
        claim = "S2" if name.startswith("neural") or name == GRU else "S1"
        what = f"{AHEAD}, {name}: bits a trial over the GLM"
        yield Row.of(claim, what, values, target, _note(found, name), interval, "higher")


def _note(found: Results, name: str) -> str:
    if name == GRU:
        return f"chosen: {found.choices.gru}"
    if name.startswith("neural"):
        K = next(K for K in found.choices.decays if name == f"neural, {state_words(K)}")
        return f"decay {found.choices.decays[K]:g} chosen"
    return ""


def _choice_rows(found: Results) -> Iterator[Row]:
    """Return numbers of states, agreement of starts, and times (S1)."""
    c, seeds = found.choices, len(found.linear)
    for what, number in (
        ("linear states", c.states),
        ("linear states, driven", c.driven_states),
        ("states with a network", c.neural_states),
    ):
        claim = "S2" if "network" in what else "S1"
        yield Row.of(claim, f"number of {what}, chosen on validation sessions", [number] * seeds)
    by_bic = [min(r.fits, key=lambda K: r.fits[K].bic(found.num_training)) for r in found.linear]
    yield Row.of("S1", "number of linear states with the least BIC of training sessions", by_bic)
    groups = [
        (words.format(state_words(K)), [r.fits[K] for r in records])
        for words, records in (
            ("{}", found.linear),
            ("{}, driven", found.driven),
            ("neural, {}", found.neural),
        )
        for K in records[0].fits
    ]
    for name, fits in groups:
        claim = "S2" if name.startswith("neural") else "S1"
        starts = len(fits[0].objectives)
        if starts == 1:  # a GLM: concave, and compiled code is loaded with it
            continue
        shares = [fit.num_agree / starts for fit in fits]
        what = f"{name}: share of starts that end within a nat of the best"
        yield Row.of(claim, what, shares, note=f"{starts} starts")
        seconds = [fit.seconds / starts for fit in fits]
        yield Row.of(claim, f"{name}: processor seconds a start", seconds)
    yield Row.of("S2", f"{GRU}: processor seconds", [r.seconds for r in found.gru])


def _rival_rows(found: Results) -> Iterator[Row]:
    """Return the differences between the models that validation sessions chose (S2)."""
    chosen = found.chosen
    for first, second in (("neural", "linear"), (GRU, "linear"), ("driven", "linear")):
        values, interval = found.gain(chosen[first], chosen[second])
        what = f"{AHEAD}, {chosen[first]} minus {chosen[second]}: bits a trial"
        note = "each chosen on validation sessions; paired by session"
        yield Row.of("S2", what, values, note=note, interval=interval, better="higher")


def _one_step_rows(found: Results) -> Iterator[Row]:
    """Return how far one step in the chain lies from the exact chain (S3)."""
    for prefix, records in (("", found.linear), ("neural, ", found.neural)):
        for K in records[0].one_step:
            name = prefix + state_words(K)
            by_way = {way: [r.one_step[K][way] for r in records] for way in records[0].one_step[K]}
            yield from _estimate_rows(name, by_way, found.lengths)


def _estimate_rows(
    name: str, by_way: Mapping[str, Sequence[ChainEstimate]], lengths: np.ndarray
) -> Iterator[Row]:
    exact = np.stack([np.asarray(e.score) for e in by_way[EXACT]])
    for way, estimates in by_way.items():
        if way == EXACT:
            continue
        for what in ("filtered", "smoothed"):
            totals = np.stack([np.asarray(getattr(e, what)) for e in estimates])
            yield Row.of(
                "S3",
                f"{name}, {what}: KL(exact || {_step(way)}), nats a trial",
                totals.sum(-1) / lengths.sum(),
                interval=per_trial(totals.mean(0), lengths),
                better="lower",
            )
        lost = (exact - np.stack([np.asarray(e.score) for e in estimates])) / BIT
        yield Row.of(
            "S3",
            f"{name}: bits a trial lost where {_step(way)} predicts the state",
            lost.sum(-1) / lengths.sum(),
            interval=per_trial(lost.mean(0), lengths),
            better="lower",
            note=f"passes {estimates[0].forward} + {estimates[0].backward}, "
            f"enumeration {by_way[EXACT][0].forward} + 0",
        )


def _step(way: str) -> str:
    return way if way == "one step" else f"one step, {way}"


def _strategy_rows(found: Sequence[Strategies], num_states: int) -> Iterator[Row]:
    """Return what the states are and when they are on (S4)."""
    for k in range(num_states):
        name = f"state {k + 1} of {num_states}"
        shares = [np.asarray(s.shares)[:, k] for s in found]
        yield Row.of(
            "S4", f"{name}: share of correct answers", [float(s.accuracy[k]) for s in found]
        )
        for part, when in ((EARLY, "first"), (LATE, "last")):
            what = f"{name}: share of the trials of the {when} 20 sessions"
            yield Row.of("S4", what, [s[part].mean() for s in shares])
    for statistic in found[0].paths:
        words = f"paths of the states, {statistic}"
        pairs = [s.paths[statistic] for s in found]
        given, drawn = ([pair[i].nanmean().item() for pair in pairs] for i in (0, 1))
        tails = [tail_probability(*pair) for pair in pairs]
        yield Row.of("S4", f"{words}: mean over draws given the choices", given)
        yield Row.of("S4", f"{words}: mean over draws of the chain alone", drawn)
        yield Row.of("S4", f"{words}: tail probability", tails)
