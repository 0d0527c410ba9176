import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gbi_pyro.diagnostics.paired import paired_bootstrap
from gbi_pyro.experiments.comparison import METHOD_FIELDS, Run, compare_runs
from gbi_pyro.experiments.discover.config import DiscoverConfig
from gbi_pyro.experiments.images.config import ImagesConfig
from gbi_pyro.experiments.images.outlier_study import OutlierConfig
from gbi_pyro.experiments.language.config import LanguageConfig
from gbi_pyro.experiments.results import Row
from gbi_pyro.experiments.store import RunFolder
from gbi_pyro.experiments.toy.config import ToyConfig


@dataclass(frozen=True)
class Inner:
    seeds: int = 3
    first_seed: int = 0
    hidden: int = 8


@dataclass(frozen=True)
class Config:
    inner: Inner = field(default_factory=Inner)
    sigma: float = 0.1
    rate: float = 0.01
    draws: int = 2


VALUES = {"error": (0.1, 0.2, 0.4), "loss": (1.0, 2.0, 4.0)}


def write(
    folder: Path,
    config: Any = None,
    study: str = "toy",
    values: dict[str, tuple[float, ...]] | None = None,
) -> Path:
    store = RunFolder(folder)
    store.write_config(study, config or Config())
    store.write_metrics([Row("T1", n, v) for n, v in (values or VALUES).items()], 1.0)
    return folder


def test_shared_quantities_are_paired_seed_by_seed(tmp_path: Path) -> None:
    a = write(tmp_path / "a", values={**VALUES, "only here": (1.0, 1.0, 1.0)})
    b = write(tmp_path / "b", Config(rate=0.1), values={"error": (0.3, 0.3, 0.7)})
    (row,) = compare_runs([a, b]).records()
    expected = paired_bootstrap([0.3, 0.3, 0.7], VALUES["error"])
    assert (row["quantity"], row["run"], row["pairs"]) == ("T1 error", str(b), 3)
    assert [row["difference"], row["low"], row["high"]] == pytest.approx(list(expected[:3]))
    assert row["mean"] - row["reference"] == pytest.approx(row["difference"])


def test_only_seeds_that_both_have_count(tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", Config(Inner(seeds=4, first_seed=1)), values={"error": (2, 4, 6, 8)})
    (row,) = compare_runs([a, b]).records()
    assert row["pairs"] == 2
    assert row["difference"] == pytest.approx(np.mean([2 - 0.2, 4 - 0.4]))
    c = write(tmp_path / "c", Config(Inner(seeds=3, first_seed=7)))
    with pytest.raises(ValueError, match="share a seed and a quantity"):
        compare_runs([a, c])


def test_several_numbers_for_a_seed_are_paired_where_seeds_agree(tmp_path: Path) -> None:
    six = {"loss": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)}
    a, b = write(tmp_path / "a", values=six), write(tmp_path / "b", values=six)
    (row,) = compare_runs([a, b]).records()
    assert (row["difference"], row["pairs"]) == (0, 6)
    c = write(tmp_path / "c", Config(Inner(first_seed=1)), values=six)
    with pytest.raises(ValueError, match="share a seed and a quantity"):
        compare_runs([a, c])


def test_a_number_that_is_missing_takes_its_pair_along(tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", values={"error": (0.2, float("nan"), 0.5)})
    (row,) = compare_runs([a, b]).records()
    assert (row["pairs"], row["difference"]) == (2, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("config", "study", "differ"),
    [
        (Config(sigma=0.3), "toy", r"differ in sigma \(0.1 and 0.3\)\."),
        (Config(sigma=0.3, draws=5), "toy", r"draws \(2 and 5\), sigma \(0.1 and 0.3\)"),
        (Config(), "images", r"study \(toy and images\)"),
        (ToyConfig(seeds=3), "toy", r"block_length \(absent and 50\)"),
    ],
)
def test_runs_on_different_data_are_refused_by_name(
    tmp_path: Path, config: Any, study: str, differ: str
) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", config, study)
    with pytest.raises(ValueError, match=f"same data; .*{differ}"):
        compare_runs([a, b])


def test_a_field_that_is_no_part_of_the_data_may_differ_if_one_says_so(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", Config(draws=5))
    assert len(compare_runs([a, b], may_differ=["draws"]).rows) == 2
    with pytest.raises(ValueError, match=r"may_differ .*\['drawz'\], which none has"):
        compare_runs([a, b], may_differ=["drawz"])


def test_each_run_is_held_against_the_first(tmp_path: Path) -> None:
    runs = [write(tmp_path / n, Config(rate=r)) for n, r in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    found = compare_runs(runs).records()
    assert [(r["quantity"], Path(str(r["run"])).name) for r in found] == [
        ("T1 error", "b"),
        ("T1 error", "c"),
        ("T1 loss", "b"),
        ("T1 loss", "c"),
    ]


def test_folders_without_a_finished_run_are_named(tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    with pytest.raises(ValueError, match="at least two runs"):
        compare_runs([a])
    RunFolder(tmp_path / "b").write_config("toy", Config())
    with pytest.raises(ValueError, match=r"finished run; its metrics.json cannot be read"):
        compare_runs([a, tmp_path / "b"])
    (tmp_path / "b" / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"finished run; its metrics.json cannot be read"):
        compare_runs([a, tmp_path / "b"])


def test_fields_of_the_method_are_fields_of_some_study() -> None:
    configs = ToyConfig, ImagesConfig, OutlierConfig, LanguageConfig, DiscoverConfig
    assert {f.name for c in configs for f in fields(c)} >= METHOD_FIELDS


def test_a_run_reads_what_a_study_wrote(tmp_path: Path) -> None:
    run = Run.read(write(tmp_path / "a"))
    assert run.study == "toy"
    assert run.config["inner.hidden"] == 8
    assert run.quantities["T1", "error"] == {0: 0.1, 1: 0.2, 2: 0.4}
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["config"]["inner"]["seeds"] == 3
