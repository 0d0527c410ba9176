"""The runner: each unit computed once, whatever the number of seeds, blocks or processes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from studies.core.cache import Cache
from studies.core.protocol import Found, Part, Report, Seeds, Study
from studies.core.runner import num_stages, run
from studies.core.seeds import Roles
from studies.core.table import Row, Target

generator = Roles("data")


@dataclass(frozen=True)
class Config(Seeds):
    """A study's settings.

    Attributes:
        seeds: how many.
        first_seed: the first one.
        scale: of the numbers.
    """

    seeds: int = 2
    scale: float = 1.0


@dataclass(frozen=True)
class Numbers:
    values: np.ndarray


class Drawn(Study[Config]):
    """Random numbers of a seed, measured seed by seed and in blocks of four."""

    name = "drawn"
    title = "Random numbers"
    config_type = Config
    block_size = 4

    def __init__(self, config: Config, chosen: str = "a") -> None:
        super().__init__(config)
        self.measured: list[tuple[int, ...]] = []
        self.chosen = chosen

    def inputs(self) -> dict[str, Any]:
        return {"choice": self.chosen}

    def parts(self) -> list[Part[Any]]:
        return [
            Part.of_seed("one by one", Numbers, self.one),
            Part("in blocks", Numbers, self.block, self.block_size),
        ]

    def one(self, seed: int, report: Report) -> Numbers:
        self.measured.append((seed,))
        draw = generator(seed, "data")
        return Numbers(
            self.config.scale * np.random.default_rng(draw.initial_seed()).normal(size=3)
        )

    def block(self, seeds: Sequence[int], report: Report) -> list[Numbers]:
        self.measured.append(tuple(seeds))
        return [Numbers(np.full(2, float(seed))) for seed in seeds]

    def table(self, found: Found) -> list[Row]:
        means = [r.values.mean() for r in found["one by one"]]
        blocks = [r.values.mean() for r in found["in blocks"]]
        return [Row.of("", "seed", blocks), Row.of("T9", "mean", means, Target(10.0))]


def values(folder, what):
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    return next(row["values"] for row in rows if row["what"] == what)


def test_more_seeds_measure_only_the_new_ones(tmp_path):
    run(Drawn(Config(seeds=5)), tmp_path)
    first = values(tmp_path, "mean")
    study = Drawn(Config(seeds=20))
    run(study, tmp_path)
    assert [s for s in study.measured if len(s) == 1] == [(seed,) for seed in range(5, 20)]
    blocks = [s for s in study.measured if len(s) > 1]
    assert blocks == [(5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19)]
    assert values(tmp_path, "mean")[:5] == first
    assert values(tmp_path, "seed") == list(range(20))


def test_a_finished_study_measures_nothing(tmp_path):
    run(Drawn(Config(seeds=3)), tmp_path)
    again = Drawn(Config(seeds=3))
    run(again, tmp_path)
    assert again.measured == []


@pytest.mark.parametrize(
    "other", [Drawn(Config(seeds=2, scale=2.0)), Drawn(Config(seeds=2), chosen="b")]
)
def test_other_settings_or_choices_measure_anew(tmp_path, other):
    run(Drawn(Config(seeds=2)), tmp_path)
    run(other, tmp_path)
    assert len(other.measured) == 3


def test_fields_that_select_parts_leave_finished_ones_as_they_are(tmp_path):
    class Selecting(Config):
        selection_fields = frozenset({"scale"})

    run(Drawn(Selecting(seeds=2)), tmp_path)
    other = Drawn(Selecting(seeds=2, scale=2.0))
    run(other, tmp_path)
    assert other.measured == []


def test_a_field_that_a_part_does_not_use_leaves_its_units(tmp_path):
    class Apart(Drawn):
        def parts(self) -> list[Part[Any]]:
            one, blocks = super().parts()
            return [one, replace(blocks, unused=frozenset({"scale"}))]

    run(Drawn(Config(seeds=2)), tmp_path / "whole")
    run(Apart(Config(seeds=2)), tmp_path)
    other = Apart(Config(seeds=2, scale=2.0))
    run(other, tmp_path)
    assert other.measured == [(0,), (1,)]
    assert values(tmp_path, "mean") == [2 * v for v in values(tmp_path / "whole", "mean")]


@pytest.mark.parametrize("written", range(3))
def test_a_block_that_was_not_written_whole_is_measured_again_side_by_side(
    tmp_path, monkeypatch, written
):
    """With other seeds beside it, or none, a seed has other last digits."""
    undisturbed = Drawn(Config(seeds=6))
    run(undisturbed, tmp_path / "undisturbed")

    def full(cache: Cache, name: str, *args: Any) -> Any:
        if name == f"in blocks, seed {written}":
            raise OSError("no space left")
        return write(cache, name, *args)

    write = Cache.write
    monkeypatch.setattr(Cache, "write", full)
    with pytest.raises(OSError, match="no space"):
        run(Drawn(Config(seeds=6)), tmp_path)
    monkeypatch.undo()
    study = Drawn(Config(seeds=6))
    run(study, tmp_path)
    in_blocks = [s for s in undisturbed.measured if len(s) > 1]
    assert study.measured == in_blocks == [(0, 1, 2, 3), (4, 5)]
    run(again := Drawn(Config(seeds=6)), tmp_path)
    assert again.measured == []


def test_other_seeds_share_those_in_common(tmp_path):
    run(Drawn(Config(seeds=3)), tmp_path)
    study = Drawn(Config(seeds=3, first_seed=2))
    run(study, tmp_path)
    assert study.measured == [(3,), (4,), (3, 4)]


def test_processes_find_what_one_process_finds(tmp_path):
    run(Drawn(Config(seeds=3)), tmp_path / "one")
    run(Drawn(Config(seeds=3)), tmp_path / "two", jobs=2)
    assert values(tmp_path / "one", "mean") == values(tmp_path / "two", "mean")


@pytest.mark.parametrize("earlier", [0, 2])
def test_progress_is_reported_once_a_stage(tmp_path, earlier):
    if earlier:
        run(Drawn(Config(seeds=earlier)), tmp_path)
    stages: list[str] = []
    study = Drawn(Config(seeds=6))
    run(study, tmp_path, progress=stages.append)
    assert len(stages) == num_stages(study) == 6 + 2 + 2


def test_rows_with_a_target_come_first_and_the_config_holds_the_choices(tmp_path):
    results = run(Drawn(Config()), tmp_path)
    assert [row.what for row in results.rows] == ["mean", "seed"]
    assert results.targets == results.rows[:1]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["study"] == "drawn"
    assert config["inputs"] == {"choice": "a"}


def test_no_seed_and_role_share_a_generator():
    roles = Roles("weights", "train", "test")
    names = roles.names
    assert len({roles(s, r).initial_seed() for s in range(50) for r in names}) == 50 * len(names)


def test_an_unknown_role_is_refused():
    with pytest.raises(ValueError, match="role should be one of"):
        generator(0, "test")
