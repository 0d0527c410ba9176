"""A sequence network against the exact Bayes predictor, where the task is open and where it is not.

The network learns to predict the next symbol of MetaHMM sequences, each with tasks of its own.
Controls: a network that is given the task as an input, compared with the exact filter given the
task, which shares the difficulty of the symbols but not the ambiguity of the task; and two exact
filters, compared with the Bayes predictor: one is given the task, the other never learns about it
and averages over the prior.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from gbi_pyro.models.initial import initialise, weights_from
from gbi_pyro.posterior import entropy
from gbi_pyro.problems import Problem, meta_hmm
from studies.bench.papers.config import AMBIGUITY, PapersConfig, generator
from studies.bench.papers.prefixes import (
    both_ways,
    combination,
    model_of,
    read_prefixes,
)
from studies.bench.papers.training import train
from studies.core.protocol import Report
from studies.core.table import Row

NETWORK, GIVEN = "LSTM", "LSTM given the task"
KNOWS, NEVER = "exact filter given the task", "exact filter that averages over the prior"
TEST = 10  # test sequences for each case of other problems
PARTS = 4  # quarters of the cases by their ambiguity


class NextSymbol(nn.Module):
    """An LSTM that predicts each symbol from those before it, and from a constant input.

    Args:
        symbols: how many there are.
        constant: numbers of the constant input, 0 for none.
        units: of the LSTM.
        draw: of the first weights.
    """

    def __init__(self, symbols: int, constant: int, units: int, draw: torch.Generator) -> None:
        super().__init__()
        with weights_from(draw):
            self.lstm = nn.LSTM(symbols + constant, units, batch_first=True)
            self.readout = nn.Linear(units, symbols)
        initialise(self, draw)
        self.symbols = symbols

    def forward(self, x: Tensor, constant: Tensor) -> Tensor:
        """Return logits of x_1..T, each given those before, ``(N, T, symbols)``.

        Args:
            x: symbols, ``(N, T)``.
            constant: ``(N, constant)``.
        """
        before = one_hot(x[:, :-1], self.symbols).to(constant)
        inputs = torch.cat([before.new_zeros(len(x), 1, self.symbols), before], 1)
        wide = constant.unsqueeze(1).expand(-1, inputs.shape[1], -1)
        logits: Tensor = self.readout(self.lstm(torch.cat([inputs, wide], -1))[0])
        return logits


@dataclass(frozen=True)
class Ambiguity:
    """Divergences by position, mean over test sequences; position t predicts x_t+1 from x_1..t.

    Attributes:
        divergence: KL both ways to the target, nats, by predictor, ``(T,)``.
        open: mean entropy of the exact posterior over tasks, nats, ``(T,)``.
        quarters: divergence by predictor, of the quarter of the sequences whose posterior at that
            position has the lowest entropy, the next, .., ``(4, T)``.
        rank: mean over positions of the rank correlation between the entropy of the posterior and
            the divergence, by predictor.
        seconds: processor seconds of both trainings.
    """

    divergence: dict[str, np.ndarray]
    open: np.ndarray
    quarters: dict[str, np.ndarray]
    rank: dict[str, float]
    seconds: float


def measure(seed: int, config: PapersConfig, report: Report) -> Ambiguity:
    """Train both networks and compare them with their exact targets, position by position."""
    problem = meta_hmm(seed, length=max(config.lengths))
    model = model_of(problem)
    data = problem.draw(TEST * config.cases, generator(seed, "data"))
    (x,) = data.args
    at = combination(model.sizes, data.tasks)
    prefixes = read_prefixes(model, x[:, :-1])
    bayes, informed = prefixes.predictive(), prefixes.given(at)
    uncertain = entropy(prefixes.log_posterior)
    uninformed = prefixes.next_symbol.mean(-2)
    found = {KNOWS: both_ways(informed, bayes), NEVER: both_ways(uninformed, bayes)}
    start = time.process_time()
    for name, target in ((NETWORK, bayes), (GIVEN, informed)):
        report(f"next symbol, {name}")
        network = _trained(problem, name == GIVEN, seed, config)
        with torch.no_grad():
            predicted = network(x, _constant(problem, at, name == GIVEN)).double().softmax(-1)
        found[name] = both_ways(predicted, target)
    return Ambiguity(
        divergence={name: by_case.mean(0).numpy() for name, by_case in found.items()},
        open=uncertain.mean(0).numpy(),
        quarters={name: _quarters(by_case, uncertain) for name, by_case in found.items()},
        rank={name: _rank(by_case, uncertain) for name, by_case in found.items()},
        seconds=time.process_time() - start,
    )


def _constant(problem: Problem, at: Tensor, given: bool) -> Tensor:
    """Return the tasks as one-hot numbers of their combination, or nothing."""
    number = int(np.prod(list(model_of(problem).sizes.values())))
    return one_hot(at, number).float() if given else torch.zeros(len(at), 0)


def _trained(problem: Problem, given: bool, seed: int, config: PapersConfig) -> NextSymbol:
    model, draw = model_of(problem), generator(seed, "train")
    number = int(np.prod(list(model.sizes.values()))) if given else 0
    symbols = model.emission.shape[-1]
    network = NextSymbol(symbols, number, config.units, generator(seed, "weights"))

    def loss() -> Tensor:
        data = problem.draw(config.batch, draw)
        constant = _constant(problem, combination(model.sizes, data.tasks), given)
        return cross_entropy(network(data.args[0], constant).flatten(0, 1), data.args[0].flatten())

    train(network, loss, config.sequence_updates)
    return network.requires_grad_(False)


def _quarters(by_case: Tensor, uncertain: Tensor) -> np.ndarray:
    """Return the mean of each quarter of the cases, in the order of their entropy, ``(4, T)``."""
    ordered = by_case.gather(0, uncertain.argsort(0))
    return torch.stack([part.mean(0) for part in ordered.tensor_split(PARTS)]).numpy()


def _rank(by_case: Tensor, uncertain: Tensor) -> float:
    # Before the first symbol all posteriors are the prior: there is no order.
    found = [spearmanr(by_case[:, t], uncertain[:, t])[0] for t in range(1, by_case.shape[1])]
    return float(np.nanmean(found))


def rows(found: Sequence[Ambiguity]) -> list[Row]:
    """Return where the divergence is largest, how large, and how it goes with the ambiguity."""
    made = []
    for name in (NETWORK, GIVEN, KNOWS, NEVER):
        of = f"{name} against {KNOWS if name == GIVEN else 'the Bayes predictor'}, KL both ways"
        curves = [r.divergence[name] for r in found]
        numbers = {
            f"{of}: mean over positions, nats": [c.mean() for c in curves],
            f"{of}: position of the maximum (symbols read)": [float(c.argmax()) for c in curves],
            f"{of}: maximum minus the mean of the last quarter, nats": [bump(c) for c in curves],
            f"{of}: most ambiguous quarter of the sequences minus the least, nats": [
                (r.quarters[name][-1] - r.quarters[name][0])[1:].mean() for r in found
            ],
            f"{of}: rank correlation with the entropy of the posterior": [
                r.rank[name] for r in found
            ],
        }
        note = "" if name == NETWORK else "control"
        made += [Row.of(AMBIGUITY, what, v, note=note) for what, v in numbers.items()]
    for quarter, words in ((0, "least"), (PARTS - 1, "most")):
        shares = [_missed(r, quarter) for r in found]
        what = f"{NETWORK}: divergence as a share of that of the {NEVER}, {words} ambiguous quarter"
        made.append(Row.of(AMBIGUITY, what, shares, note="0: all that there is to infer is used"))
    seconds = [r.seconds for r in found]
    return [*made, Row.of(AMBIGUITY, "both LSTMs: processor seconds of training", seconds)]


def _missed(record: Ambiguity, quarter: int) -> float:
    network, never = (record.quarters[name][quarter, 1:].mean() for name in (NETWORK, NEVER))
    return float(network / never)


def bump(curve: np.ndarray) -> float:
    """Return by how much the maximum exceeds the mean of the last quarter of the positions.

    >>> bump(np.array([0.0, 3.0, 1.0, 1.0]))
    2.0
    """
    return float(curve.max() - curve[-max(1, len(curve) // 4) :].mean())
