"""A recurrent network as rival: no states, no chain, the same covariates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gbi_pyro.data import Sessions
from studies.sequences.models import D
from studies.sequences.sessions import trials

EVERY = 10  # weight updates between two looks at the validation sessions


class ChoiceGRU(nn.Module):
    """A GRU of the covariates, and a linear output from its units and the covariates.

    Its state before the first trial of a session is zero. What it knows of the past it has from
    the covariates, which hold the previous choice, answer and mean tone.

    Args:
        units: of the GRU.
        generator: of the first weights.
    """

    def __init__(self, units: int, generator: torch.Generator) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            self.recurrent = nn.GRU(D, units, batch_first=True)
            self.output = nn.Linear(units + D, 1)

    def forward(self, covariates: Tensor) -> Tensor:
        """Return the log odds of right, one trial ahead: ``(S, T)``."""
        u = covariates.to(self.output.weight)
        log_odds: Tensor = self.output(torch.cat([self.recurrent(u)[0], u], -1)).squeeze(-1)
        return log_odds

    def score(self, sessions: Sessions) -> Tensor:
        """Return log p(choices) of each session in nats, ``(S,)``."""
        covariates, right, mask, _ = trials(sessions)
        sign = 2 * right - 1
        log_prob = nn.functional.logsigmoid(sign * self(covariates).double())
        return (log_prob * mask).sum(-1)


@dataclass(frozen=True)
class GRUChoice:
    """A rival's settings, chosen on validation sessions.

    Attributes:
        units: of the GRU.
        decay: AdamW's.
        updates: after which to stop.
    """

    units: int
    decay: float
    updates: int

    def __str__(self) -> str:
        return f"{self.units} units, decay {self.decay:g}, {self.updates} updates"


def training(
    network: ChoiceGRU, sessions: Sessions, choice: GRUChoice, rate: float
) -> Iterator[int]:
    """Train a network on all sessions at once, and give the number of updates now and then."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=choice.decay)
    for update in range(1, choice.updates + 1):
        loss = -network.score(sessions).sum() / sessions.num_steps
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if update % EVERY == 0 or update == choice.updates:
            yield update


def validation_curve(
    choice: GRUChoice, fitting: Sessions, validation: Sessions, rate: float, draw: torch.Generator
) -> dict[int, float]:
    """Return nats a trial of validation sessions by the number of updates, up to the choice's."""
    network = ChoiceGRU(choice.units, draw)
    curve = {}
    for update in training(network, fitting, choice, rate):
        with torch.no_grad():
            curve[update] = (network.score(validation).sum() / validation.num_steps).item()
    return curve


def train_gru(
    choice: GRUChoice, sessions: Sessions, rate: float, draw: torch.Generator
) -> tuple[ChoiceGRU, float]:
    """Return a trained network, and the seconds of the processor it took."""
    begin, network = time.process_time(), ChoiceGRU(choice.units, draw)
    for _ in training(network, sessions, choice, rate):
        pass
    return network.requires_grad_(False).eval(), time.process_time() - begin
