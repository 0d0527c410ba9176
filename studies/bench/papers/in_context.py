"""In-context networks on tasks that put modules together, seen and held out.

Kobayashi et al. 2024, When can transformers compositionally generalize in-context?, arXiv
2407.12275; with the hyperteacher of one or two modules out of six.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gbi_pyro.models.initial import initialise, weights_from
from studies.bench.papers.config import IN_CONTEXT, PapersConfig, generator
from studies.bench.papers.training import SetEncoder, perceptron, train
from studies.core.protocol import Report
from studies.core.table import Row, Target

MODULES, HIDDEN, INPUTS, OUTPUTS = 6, 16, 4, 2
SCALE, NOISE = 0.7, 0.1
BOTTLENECK, PLAIN = "inference bottleneck", "plain"
POOLED, TRANSFORMER = "mean", "transformer"
CONNECTED, UNSEEN = "modules all seen", "one module never seen"


class Support(NamedTuple):
    """Which modules are on in the tasks of training and in those that are held out.

    Attributes:
        seen: codes of zeros and ones, ``(tasks, MODULES)``.
        held_out: likewise.
    """

    seen: Tensor
    held_out: Tensor


def supports() -> dict[str, Support]:
    """Return the connected support and its control.

    The connected support shows each module alone and in pairs with its neighbours on a ring, at
    distance 1 and 2; pairs at distance 3 are held out. In the control the last module is never
    seen, and what is held out are all those of the same tasks that it is on in.
    """
    one = torch.eye(MODULES)
    near = [one[i] + one[(i + d) % MODULES] for d in (1, 2) for i in range(MODULES)]
    far = torch.stack([one[i] + one[i + MODULES // 2] for i in range(MODULES // 2)])
    shown = torch.cat([one, torch.stack(near)])
    last = shown[:, -1] > 0
    return {CONNECTED: Support(shown, far), UNSEEN: Support(shown[~last], shown[last])}


@dataclass(frozen=True)
class Teacher:
    """y = V tanh(.7 sum_m c_m Theta_m x): a network that a code c puts together of modules.

    Attributes:
        modules: Theta, ``(MODULES, HIDDEN, INPUTS)``.
        readout: V, ``(OUTPUTS, HIDDEN)``.
    """

    modules: Tensor
    readout: Tensor

    @classmethod
    def of_seed(cls, seed: int) -> Teacher:
        """Draw the parameters."""
        draw = generator(seed, "parameters")
        modules = torch.randn(MODULES, HIDDEN, INPUTS, generator=draw)
        return cls(modules, torch.randn(OUTPUTS, HIDDEN, generator=draw) / HIDDEN**0.5)

    def __call__(self, codes: Tensor, x: Tensor) -> Tensor:
        """Return y, ``(tasks, n, OUTPUTS)``, of codes ``(tasks, MODULES)`` and x."""
        return composed(SCALE * codes, self.modules, self.readout, x)

    def draw(self, codes: Tensor, tasks: int, shots: int, draw: torch.Generator) -> Episode:
        """Draw tasks among codes, a context of each and queries without noise."""
        chosen = codes[torch.randint(len(codes), (tasks,), generator=draw)]
        x = 2 * torch.rand(tasks, 2 * shots, INPUTS, generator=draw) - 1
        y = self(chosen, x)
        noise = NOISE * torch.randn(tasks, shots, OUTPUTS, generator=draw)
        context = torch.cat([x[:, :shots], y[:, :shots] + noise], -1)
        return Episode(context, x[:, shots:], y[:, shots:])


class Episode(NamedTuple):
    """Tasks in context.

    Attributes:
        context: x and y side by side, ``(tasks, shots, INPUTS + OUTPUTS)``.
        queries: x, ``(tasks, shots, INPUTS)``.
        answers: y without noise, ``(tasks, shots, OUTPUTS)``.
    """

    context: Tensor
    queries: Tensor
    answers: Tensor


def composed(codes: Tensor, modules: Tensor, readout: Tensor, x: Tensor) -> Tensor:
    """Return V tanh(sum_m c_m Theta_m x), ``(tasks, n, OUTPUTS)``."""
    weights = (codes @ modules.flatten(1)).unflatten(-1, modules.shape[1:])
    return torch.tanh(x @ weights.mT) @ readout.mT


class WithBottleneck(nn.Module):
    """Infer a code from the context; a bank of modules, put together by it, answers."""

    def __init__(self, width: int, attention: bool, draw: torch.Generator) -> None:
        super().__init__()
        self.encoder = _encoder(width, MODULES, attention, draw)
        bank = torch.randn(MODULES, HIDDEN, INPUTS, generator=draw) / INPUTS**0.5
        self.bank = nn.Parameter(bank)
        self.readout = nn.Parameter(torch.randn(OUTPUTS, HIDDEN, generator=draw) / HIDDEN**0.5)

    def forward(self, context: Tensor, queries: Tensor) -> Tensor:
        """Return y at the queries, ``(tasks, n, OUTPUTS)``."""
        return composed(self.encoder(context), self.bank, self.readout, queries)


class Plain(nn.Module):
    """Answer from an encoding of the context, as wide as the network, and the query."""

    def __init__(self, width: int, attention: bool, draw: torch.Generator) -> None:
        super().__init__()
        self.encoder = _encoder(width, width, attention, draw)
        with weights_from(draw):
            self.answer = perceptron(width + INPUTS, width, width, OUTPUTS)
        initialise(self.answer, draw)

    def forward(self, context: Tensor, queries: Tensor) -> Tensor:
        """Return y at the queries, ``(tasks, n, OUTPUTS)``."""
        code = self.encoder(context).unsqueeze(1).expand(-1, queries.shape[1], -1)
        found: Tensor = self.answer(torch.cat([code, queries], -1))
        return found


def _encoder(width: int, outputs: int, attention: bool, draw: torch.Generator) -> SetEncoder:
    observed = INPUTS + OUTPUTS
    return SetEncoder(observed, width, outputs, draw, mean=True, attention=attention)


ANSWERS: dict[str, type[WithBottleneck | Plain]] = {BOTTLENECK: WithBottleneck, PLAIN: Plain}
ENCODERS = {POOLED: False, TRANSFORMER: True}


@dataclass(frozen=True)
class Trained:
    """A network after training.

    Attributes:
        in_distribution: R2 of its answers on the tasks of training.
        held_out: on those held out.
        seconds: processor seconds of training.
    """

    in_distribution: float
    held_out: float
    seconds: float


@dataclass(frozen=True)
class InContext:
    """What was measured.

    Attributes:
        found: by support, by encoder, and by what answers: through the bottleneck, or plainly.
    """

    found: dict[str, dict[str, dict[str, Trained]]]


def measure(seed: int, config: PapersConfig, report: Report) -> InContext:
    """Train networks with and without the bottleneck on both supports."""
    teacher = Teacher.of_seed(seed)

    def trained(support: Support, network: nn.Module) -> Trained:
        start, draw = time.process_time(), generator(seed, "train")

        def loss() -> Tensor:
            episode = teacher.draw(support.seen, config.batch // 2, config.context, draw)
            answers = network(episode.context, episode.queries)
            return nn.functional.mse_loss(answers, episode.answers)

        train(network, loss, config.context_updates)
        seconds = time.process_time() - start
        tests = [generator(seed, "data") for _ in support]
        scores = [
            explained(network, teacher.draw(codes, config.test_tasks, config.context, test))
            for codes, test in zip(support, tests, strict=True)
        ]
        return Trained(scores[0], scores[1], seconds)

    found: dict[str, dict[str, dict[str, Trained]]] = {}
    for where, support in supports().items():
        found[where] = {}
        for encoder, attention in ENCODERS.items():
            found[where][encoder] = {}
            for name, make in ANSWERS.items():
                report(f"in-context network, {encoder}, {name}, {where}")
                network = make(config.width, attention, generator(seed, "weights"))
                found[where][encoder][name] = trained(support, network)
    return InContext(found)


@torch.no_grad()
def explained(network: Callable[[Tensor, Tensor], Tensor], episode: Episode) -> float:
    """Return R2, the share of the variance of y over all tasks that the answers explain."""
    error = network(episode.context, episode.queries) - episode.answers
    around = episode.answers - episode.answers.mean((0, 1))
    return float(1 - error.square().sum() / around.square().sum())


def rows(found: Sequence[InContext]) -> list[Row]:
    """Return R2 and what the bottleneck adds to it where modules are put together anew."""
    made = []
    for where in (CONNECTED, UNSEEN):
        for encoder in ENCODERS:
            by_answer = {a: [r.found[where][encoder][a] for r in found] for a in ANSWERS}
            for name, records in by_answer.items():
                numbers = {
                    "R2 on tasks of training": [t.in_distribution for t in records],
                    "R2 on tasks held out": [t.held_out for t in records],
                    "compositional gap in R2": [t.in_distribution - t.held_out for t in records],
                }
                of = f"in-context network ({encoder}, {name}), {where}"
                made += [Row.of(IN_CONTEXT, f"{of}: {what}", v) for what, v in numbers.items()]
            control = where == UNSEEN
            made.append(
                Row.of(
                    IN_CONTEXT,
                    f"in-context network ({encoder}), {where}: R2 on tasks held out, bottleneck "
                    "minus plain",
                    [
                        a.held_out - b.held_out
                        for a, b in zip(by_answer[BOTTLENECK], by_answer[PLAIN], strict=True)
                    ],
                    None if control else Target(0.1, at_least=True),
                    "control: no network can know the module" if control else "",
                )
            )
    seconds = [sum(t.seconds for t in _all(r)) for r in found]
    what = f"in-context networks: processor seconds of training, {len(_all(found[0]))} of them"
    return [*made, Row.of(IN_CONTEXT, what, seconds)]


def _all(record: InContext) -> list[Trained]:
    return [t for by in record.found.values() for those in by.values() for t in those.values()]
