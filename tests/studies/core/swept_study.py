"""A tiny study for tests of sweeps: its units can fail, be killed, and leave a trace each."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from studies.core.cache import Cache
from studies.core.protocol import Found, Part, Report, Seeds, Study
from studies.core.table import Row, Target


@dataclass(frozen=True)
class Config(Seeds):
    """Settings.

    Attributes:
        scale: of the numbers.
        shift: of the numbers; the blocks do not depend on it.
        fail: the seed that fails.
        kill: the seed whose process ends itself by SIGKILL, the first time.
        slow: seconds that a unit takes.
        trace: the folder where each start of a unit leaves a file.
        chosen: whether there are choices to be made.
    """

    seeds: int = 1
    scale: float = 1.0
    shift: float = 0.0
    fail: int = -1
    kill: int = -1
    slow: float = 0.0
    trace: str = ""
    chosen: bool = False

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, got {self.scale}")

    def fast(self) -> "Config":
        return replace(self, slow=0.0)


@dataclass(frozen=True)
class Numbers:
    values: np.ndarray


@dataclass(frozen=True)
class Choice:
    offset: float


class Swept(Study[Config]):
    """The seed times a scale, one by one, and the seeds in blocks of four."""

    name = "swept"
    title = "Seeds and their multiples"
    config_type = Config

    def prepare(self, cache: Cache, report: Report) -> None:
        self.choice: Choice | None = None
        if self.config.chosen:
            settings = {"scale": self.config.scale}
            self.choice = cache.get("offset", settings, Choice, self.choose)

    def choose(self) -> Choice:
        self.leave_trace("choice")
        if self.config.fail == -2:
            raise RuntimeError("nothing to choose from")
        return Choice(100.0)

    def inputs(self) -> dict[str, Any]:
        choice = getattr(self, "choice", None)
        return {"offset": choice.offset} if choice else {}

    def parts(self) -> list[Part[Any]]:
        unused = frozenset({"fail", "kill", "slow", "trace"})
        blocks = Part("in blocks", Numbers, self.block, 4, unused=unused | {"shift"})
        return [Part.of_seed("one by one", Numbers, self.one, unused=unused), blocks]

    def one(self, seed: int, report: Report) -> Numbers:
        before = self.leave_trace(f"one {seed}")
        time.sleep(self.config.slow)
        if seed == self.config.fail:
            raise RuntimeError(f"seed {seed} fails")
        if seed == self.config.kill and not before:
            os.kill(os.getpid(), signal.SIGKILL)
        offset = self.choice.offset if self.choice else 0.0
        return Numbers(np.full(3, seed * self.config.scale + self.config.shift + offset))

    def block(self, seeds: Sequence[int], report: Report) -> list[Numbers]:
        self.leave_trace(f"block {seeds[0]}-{seeds[-1]}")
        return [Numbers(np.array([seed, len(seeds)], dtype=float)) for seed in seeds]

    def leave_trace(self, what: str) -> int:
        """Leave a file; returns how many there were of the same name."""
        if not self.config.trace:
            return 0
        folder, name = Path(self.config.trace), f"{what}, scale {self.config.scale:g}"
        before = len([*folder.glob(f"{name}.*")])
        (folder / f"{name}.{time.time_ns()}.{os.getpid()}").touch()
        return before

    def table(self, found: Found) -> list[Row]:
        numbers = [record.values for record in found["one by one"]]
        return [
            Row.of("", f"scale {self.config.scale:g}: number", [v[0] for v in numbers]),
            Row.of("T9", "all three", [x for v in numbers for x in v], Target(1e9)),
            Row.of("", "at scale 1: sign", [1.0 for _ in numbers]),
            Row.of("", "seed", [record.values[0] for record in found["in blocks"]]),
        ]
