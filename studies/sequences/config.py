"""The configuration of the study of sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

from studies.core.protocol import Seeds
from studies.core.seeds import Roles

generator = Roles("starts of fits", "weights of the GRU", "draws")


@dataclass(frozen=True)
class SequencesConfig(Seeds):
    """Everything the study of sequences depends on.

    Attributes:
        seeds: how often all is fitted again, from other starts and other first weights.
        first_seed: their seeds are ``first_seed``, ``first_seed + 1``, ...
        states: numbers of linear states, beside the GLM, which has one.
        neural_states: numbers of states with a network each.
        hidden: tanh units of the network of a state.
        precision: of the Gaussian prior over the weights of linear states.
        decays: precisions for the weights of networks, of which validation sessions choose.
        starts: of each fit of linear states.
        neural_starts: of each fit of states with networks.
        tolerance: of the gradient at which a fit stops, per trial.
        gru_units: numbers of units of the recurrent rival, of which validation sessions choose.
        gru_decays: its weight decays by AdamW, likewise.
        gru_updates: its weight updates at most; validation sessions choose when to stop.
        gru_rate: its learning rate.
        draws: of paths, for checks of the model.
        max_sessions: of the first sessions alone, for a test; 0 takes all.
    """

    seeds: int = 3
    first_seed: int = 0
    states: tuple[int, ...] = (2, 3, 4)
    neural_states: tuple[int, ...] = (1, 2, 3)
    hidden: int = 12
    precision: float = 0.04
    decays: tuple[float, ...] = (1.0, 3.0, 10.0)
    starts: int = 20
    neural_starts: int = 2
    tolerance: float = 1e-4
    gru_units: tuple[int, ...] = (8, 16)
    gru_decays: tuple[float, ...] = (0.1, 1.0)
    gru_updates: int = 300
    gru_rate: float = 0.01
    draws: int = 200
    max_sessions: int = 0
    method_fields = frozenset(
        {
            *("hidden", "precision", "decays", "starts", "neural_starts", "tolerance"),
            *("gru_units", "gru_decays", "gru_updates", "gru_rate"),
        }
    )

    def __post_init__(self) -> None:
        self.check_at_least_one(
            "seeds", "hidden", "starts", "neural_starts", "gru_updates", "draws"
        )
        if not self.states or min(self.states) < 2:
            raise ValueError(f"states must be numbers from 2 on, one or more, got {self.states}")
        if not self.neural_states or min(self.neural_states) < 1:
            raise ValueError(f"neural_states must be numbers from 1 on, got {self.neural_states}")
        if not self.decays or not min(*self.decays, self.precision) > 0:
            raise ValueError(
                f"precision and decays must be positive, got {self.precision} and {self.decays}"
            )
        if not self.gru_units or not self.gru_decays or min(self.gru_decays) < 0:
            raise ValueError(
                f"gru_units and gru_decays must be one number or more, got {self.gru_units} and "
                f"{self.gru_decays}"
            )
        if self.max_sessions and self.max_sessions < 16:
            raise ValueError(
                "max_sessions must leave some to fit, to choose and to judge on: 0 or 16 at least, "
                f"got {self.max_sessions}"
            )

    def fast(self) -> SequencesConfig:
        """Return a smoke test: everything runs in seconds, and the numbers are meaningless."""
        return replace(
            self,
            seeds=1,
            states=(2,),
            neural_states=(1, 2),
            hidden=2,
            decays=(1.0, 10.0),
            starts=2,
            neural_starts=1,
            tolerance=1e-3,
            gru_units=(2,),
            gru_decays=(0.1,),
            gru_updates=10,
            draws=10,
            max_sessions=16,
        )
