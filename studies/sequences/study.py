"""The study of sequences: a rat's choices, predicted with hidden states and without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from gbi_pyro.export.inference_data import to_inference_data
from studies.core.cache import Cache, as_json
from studies.core.protocol import Found, Part, Report, Study
from studies.core.table import Row
from studies.sequences import figures
from studies.sequences.choices import Choices, make_choices, state_words
from studies.sequences.config import SequencesConfig, generator
from studies.sequences.fits import Fitted, fit_choices
from studies.sequences.gru import ChoiceGRU, train_gru
from studies.sequences.models import ChoiceModel
from studies.sequences.one_step import compare_one_step
from studies.sequences.record import DrivenSeed, GRUSeed, LinearSeed, NeuralSeed
from studies.sequences.sessions import (
    FOLDER_VARIABLE,
    Split,
    checksum,
    data_file,
    read_sessions,
    split,
    trials,
)
from studies.sequences.strategies import describe_states
from studies.sequences.table import Results, sequences_table

LINEAR, DRIVEN = "linear states", "linear states, driven"
NEURAL, RECURRENT = "states with networks", "GRU"


class SequencesStudy(Study[SequencesConfig]):
    """Strategies of a rat over 80 sessions, and which model predicts its next choice best."""

    name = "sequences"
    title = "A rat's choices: hidden states, networks, and one gradient step in the chain"
    config_type = SequencesConfig
    reads_files = True
    data_variable = FOLDER_VARIABLE
    made: Choices | None = None

    @property
    def choice(self) -> Choices:
        """What validation sessions chose, once ``prepare`` has asked them."""
        assert self.made is not None, "prepare comes first"
        return self.made

    @property
    def sessions(self) -> Split:
        """The rat's sessions."""
        return split(read_sessions(data_file(self.data)), self.config.max_sessions)

    def prepare(self, cache: Cache, report: Report) -> None:
        """Choose numbers of states, decays and the GRU on validation sessions."""
        settings = {**self._data(), **as_json(self.config), "seeds": None, "first_seed": None}
        self.made = cache.get(
            "choices",
            settings,
            Choices,
            lambda: make_choices(self.config, self.sessions, report),
        )

    def _data(self) -> dict[str, Any]:
        return {"sessions": checksum(data_file(self.data))}

    def inputs(self) -> dict[str, Any]:
        """Return the checksum of the sessions."""
        return self._data()

    def choices(self) -> dict[str, Any]:
        """Return what validation sessions chose."""
        return {"choices": as_json(self.choice)}

    def parts(self) -> list[Part[Any]]:
        """Return a part for each kind of model."""
        c = self.made
        return [
            Part.of_seed(LINEAR, LinearSeed, self.linear, c and c.states),
            Part.of_seed(DRIVEN, DrivenSeed, self.driven),
            Part.of_seed(NEURAL, NeuralSeed, self.neural, c and sorted(c.decays.items())),
            Part.of_seed(RECURRENT, GRUSeed, self.recurrent, c and str(c.gru)),
        ]

    def linear(self, seed: int, report: Report) -> LinearSeed:
        """Fit regressions with states that switch, and describe the states."""
        config, parts, fits = self.config, self.sessions, {}
        for K in (1, *config.states):
            report(state_words(K))
            fits[K] = self._fit(ChoiceModel(K, config.precision), seed)
        report("one step in the chain")
        one_step = {
            K: compare_one_step(fits[K], parts.training, parts.held_out) for K in config.states
        }
        report("the states")
        strategies = describe_states(
            fits[self.choice.states],
            fits[1],
            parts.every,
            draws=config.draws,
            draw=generator(seed, "draws"),
        )
        scores = {state_words(K): fit.score(parts.held_out) for K, fit in fits.items()}
        return LinearSeed(fits, scores, one_step, strategies)

    def driven(self, seed: int, report: Report) -> DrivenSeed:
        """Fit the same with transitions that outcomes drive."""
        fits, scores = {}, {}
        for K in self.config.states:
            report(f"{state_words(K)}, driven")
            fits[K] = self._fit(ChoiceModel(K, self.config.precision), seed, driven=True)
            scores[f"{state_words(K)}, driven"] = fits[K].score(self.sessions.held_out)
        return DrivenSeed(fits, scores)

    def neural(self, seed: int, report: Report) -> NeuralSeed:
        """Fit states with a network each, at the decays that were chosen."""
        config, parts, fits = self.config, self.sessions, {}
        for K in config.neural_states:
            report(state_words(K))
            fits[K] = self._fit(ChoiceModel(K, self.choice.decays[K], config.hidden), seed)
        return NeuralSeed(
            fits,
            {f"neural, {state_words(K)}": fit.score(parts.held_out) for K, fit in fits.items()},
            {
                K: compare_one_step(fit, parts.training, parts.held_out)
                for K, fit in fits.items()
                if K > 1
            },
        )

    def _fit(self, model: ChoiceModel, seed: int, *, driven: bool = False) -> Fitted:
        first = generator(seed, "starts of fits").initial_seed()
        starts = self.config.neural_starts if model.hidden else self.config.starts
        return fit_choices(
            model,
            self.sessions.training,
            starts=starts,
            seed=first,
            tolerance=self.config.tolerance,
            driven=driven,
            errors=not (driven or model.hidden),
        )

    def recurrent(self, seed: int, report: Report) -> GRUSeed:
        """Train the GRU on all training sessions, with the settings that were chosen."""
        parts, draw = self.sessions, generator(seed, "weights of the GRU")
        found, seconds = train_gru(self.choice.gru, parts.training, self.config.gru_rate, draw)
        return GRUSeed(found.state_dict(), found.score(parts.held_out), seconds)

    def table(self, found: Found) -> list[Row]:
        """Return scores, choices, one step in the chain, and the states."""
        return sequences_table(self._results(found))

    def _results(self, found: Found) -> Results:
        parts = self.sessions
        return Results(
            self.choice,
            found[LINEAR],
            found[DRIVEN],
            found[NEURAL],
            found[RECURRENT],
            parts.held_out.lengths.numpy(),
            parts.training.num_steps,
        )

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw the scores, the states, and the checks of the model."""
        results, sessions = self._results(found), self.sessions.every
        first: LinearSeed = found[LINEAR][0]
        yield "scores", figures.figure_scores(results)
        fit = first.fits[self.choice.states]
        yield "states", figures.figure_states(fit, first.strategies, sessions)
        yield "checks", figures.figure_checks(first.strategies)
        yield "one-step", figures.figure_one_step(results)

    def posterior(self, found: Found) -> Any:
        """Return the states of all sessions, by the first seed's model of the chosen number."""
        first: LinearSeed = found[LINEAR][0]
        fit, sessions = first.fits[self.choice.states], self.sessions.every
        return to_inference_data(
            fit.infer(sessions),
            observed={"right": trials(sessions).right},
            attributes={"study": self.name, "seed": self.config.first_seed},
        )

    def networks(self, found: Found) -> Mapping[str, nn.Module]:
        """Return the GRU of every seed."""
        networks = {}
        for seed, record in zip(self.config.all_seeds, found[RECURRENT], strict=True):
            network = ChoiceGRU(self.choice.gru.units, generator(seed, "weights of the GRU"))
            network.load_state_dict(record.weights)
            networks[f"gru_{seed}"] = network.requires_grad_(False).eval()
        return networks
