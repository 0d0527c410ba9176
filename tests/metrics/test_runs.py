import io
import json
import shutil
import tracemalloc
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console

from gbi_pyro import plots
from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.files import Manifest
from gbi_pyro.metrics.comparison import leave_one_out
from gbi_pyro.metrics.intervals import paired_bootstrap
from gbi_pyro.metrics.log_likelihood import Pointwise
from gbi_pyro.metrics.runs import Run, compare_runs, print_comparison, write_comparison
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import Plate, TaskSite
from studies.__main__ import STUDIES
from studies.core.commands import load_study
from studies.core.run_folder import RunFolder
from studies.core.table import Row, Target
from studies.toy.config import ToyConfig


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
    method_fields: ClassVar[frozenset[str]] = frozenset({"rate", "hidden"})


VALUES = {"error": (0.1, 0.2, 0.4), "loss": (1.0, 2.0, 4.0)}


def write(
    folder: Path,
    config: Any = None,
    study: str = "toy",
    values: dict[str, tuple[float, ...]] | None = None,
) -> Path:
    store = RunFolder(folder)
    store.write_config(study, config or Config(), {})
    store.write_metrics([Row("T1", n, v) for n, v in (values or VALUES).items()], 1.0)
    Manifest.write(folder)
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


def test_each_run_is_compared_with_the_first(tmp_path: Path) -> None:
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
    RunFolder(tmp_path / "b").write_config("toy", Config(), {})
    with pytest.raises(ValueError, match=r"finished run; its run.json cannot be read"):
        compare_runs([a, tmp_path / "b"])
    b = write(tmp_path / "b")
    (b / "metrics.json").unlink()
    with pytest.raises(ValueError, match=r"metrics.json cannot be read"):
        compare_runs([a, b])
    (b / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"its run.json is damaged"):
        compare_runs([a, b])


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "posterior.nc"])
def test_a_file_of_another_run_or_altered_is_refused(tmp_path: Path, name: str) -> None:
    a = with_pointwise(write(tmp_path / "a"), torch.zeros(N))
    b = with_pointwise(write(tmp_path / "b", Config(rate=0.1), values={"loss": (1, 2, 4)}), -X)
    assert len(compare_runs([a, b]).rows) == 2
    shutil.copy(a / name, b / name)
    with pytest.raises(ValueError, match=f"{name} should be as the run wrote it; its SHA-256"):
        compare_runs([a, b])
    (b / name).write_bytes(b"[1]")
    with pytest.raises(ValueError, match=f"{name} should be as the run wrote it"):
        compare_runs([a, b])


def test_a_posterior_that_the_run_did_not_write_is_not_read(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    (b / "posterior.nc").write_text("left by something else")
    assert len(compare_runs([a, b]).rows) == 2


def test_a_file_of_few_bytes_that_declares_many_numbers_is_refused(tmp_path: Path) -> None:
    import h5netcdf

    path = tmp_path / "posterior.nc"
    with h5netcdf.File(path, "w") as file:
        group = file.create_group("log_likelihood")
        group.dimensions = {"chain": 1, "draw": 1, "n": 2**28}
        group.create_variable("log_evidence", ("chain", "draw", "n"), float, chunks=(1, 1, 1024))
    assert path.stat().st_size < 2**16
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"posterior.nc cannot be read \(it declares 2147483648 b"):
        Pointwise.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("place", STUDIES.values(), ids=STUDIES)
def test_fields_of_the_method_are_fields_of_the_configuration(place: str) -> None:
    config = load_study(place).config_type
    assert config.method_fields
    assert {f.name for f in fields(config)} >= config.method_fields


def test_a_field_of_the_method_may_differ_also_in_a_nested_configuration(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", Config(Inner(hidden=16), rate=0.1))
    assert len(compare_runs([a, b]).rows) == 2
    assert Run.read(a).method_fields == {"rate", "hidden"}
    config = json.loads((b / "config.json").read_text())
    (b / "config.json").write_text(json.dumps({**config, "method_fields": ["rate"]}))
    Manifest.write(b)
    with pytest.raises(ValueError, match=r"differ in inner.hidden \(absent and 16\)"):
        compare_runs([a, b])


def test_a_run_reads_what_a_study_wrote(tmp_path: Path) -> None:
    run = Run.read(write(tmp_path / "a"))
    assert run.study == "toy"
    assert run.config["inner.hidden"] == 8
    assert run.quantities["T1", "error"] == {0: 0.1, 1: 0.2, 2: 0.4}
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["config"]["inner"]["seeds"] == 3


N = 8
X = torch.linspace(0, 1, N)


def with_pointwise(folder: Path, log_evidence: torch.Tensor, x: torch.Tensor = X) -> Path:
    """Give a run a posterior over N trials: fixed weights, ``(N,)``, or draws, ``(S, N)``."""
    half = torch.full((N, 2), 0.5).log()
    fixed = log_evidence if log_evidence.ndim == 1 else None
    found = TaskPosterior(
        {"z": half}, {"z": TaskSite("z", half, (Plate("trial", N, N),))}, "example"
    )
    found = replace(found, log_evidence=fixed)
    draws = None if fixed is not None else log_evidence
    data = to_inference_data(
        found,
        observed={"x": x},
        log_evidence=draws,
        num_draws=None if draws is None else len(draws),
    )
    RunFolder(folder).write_posterior(data)
    Manifest.write(folder)
    return folder


def test_elements_of_fixed_weights_are_paired_by_log_score(
    tmp_path: Path, generator: torch.Generator
) -> None:
    ours, theirs = torch.randn(2, N, generator=generator)
    a = with_pointwise(write(tmp_path / "a"), ours)
    b = with_pointwise(write(tmp_path / "b"), theirs)
    row = compare_runs([a, b]).records()[-1]
    expected = paired_bootstrap(theirs.double().numpy(), ours.double().numpy())
    what = "log p of an element of posterior.nc, taken as independent, nats"
    assert row["quantity"] == f"held-out: {what}"
    assert [row["difference"], row["low"], row["high"]] == pytest.approx(list(expected[:3]))
    assert row["pairs"] == N


def test_elements_that_the_draws_saw_are_left_out_one_by_one(
    tmp_path: Path, generator: torch.Generator
) -> None:
    draws = 0.1 * torch.randn(2, 400, N, generator=generator, dtype=torch.float64)
    a = with_pointwise(write(tmp_path / "a"), draws[0])
    b = with_pointwise(write(tmp_path / "b"), draws[1] - 1)
    row = compare_runs([a, b]).records()[-1]
    first, second = (Pointwise.read(f / "posterior.nc") for f in (b, a))
    assert first is not None
    assert second is not None
    expected = leave_one_out(to_inference(tmp_path / "b"))
    np.testing.assert_array_equal(first.values, expected.pointwise.numpy())
    what = "log p of an element of posterior.nc, taken as independent, nats"
    assert row["quantity"] == f"leave-one-out: {what}"
    assert row["difference"] == pytest.approx((first.values - second.values).mean())
    fixed = with_pointwise(write(tmp_path / "c"), torch.zeros(N))
    found = compare_runs([a, fixed]).records()  # one criterion is not compared with another
    assert not [r for r in found if "posterior.nc" in str(r["quantity"])]


def to_inference(folder: Path) -> Any:
    import arviz as az

    return az.from_netcdf(folder / "posterior.nc")


def test_unreliable_leave_one_out_is_named(tmp_path: Path, generator: torch.Generator) -> None:
    heavy = torch.randn(400, N, generator=generator, dtype=torch.float64)
    heavy[:, 0] *= 8  # importance ratios without a mean
    runs = [with_pointwise(write(tmp_path / n), heavy - i) for i, n in enumerate("ab")]
    row = compare_runs(runs).records()[-1]
    assert "unreliable" in str(row["quantity"])


def test_other_data_under_the_same_configuration_are_refused(tmp_path: Path) -> None:
    a = with_pointwise(write(tmp_path / "a"), torch.zeros(N))
    b = with_pointwise(write(tmp_path / "b"), torch.zeros(N), X + 1e-3)
    with pytest.raises(ValueError, match=r"other observed_data in posterior.nc"):
        compare_runs([a, b])
    four = write(tmp_path / "c", Config(Inner(seeds=4)), values={"loss": (1, 2, 3, 4)})
    more = with_pointwise(four, torch.zeros(N), X + 1)
    quantities = {str(r["quantity"]) for r in compare_runs([a, more]).records()}
    assert quantities == {"T1 loss"}


def test_a_posterior_without_a_likelihood_adds_nothing(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name) for name in "ab")
    half = torch.full((N, 2), 0.5).log()
    found = TaskPosterior({"z": half}, {"z": TaskSite("z", half, (None,))}, "example")
    for folder in (a, b):
        RunFolder(folder).write_posterior(to_inference_data(found))
        Manifest.write(folder)
    assert Pointwise.read(a / "posterior.nc") is None
    assert len(compare_runs([a, b]).rows) == 2
    (a / "posterior.nc").write_text("no netCDF")
    Manifest.write(a)
    with pytest.raises(ValueError, match=r"posterior.nc cannot be read"):
        compare_runs([a, b])


def test_swapping_the_reference_flips_every_sign(tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    b = write(tmp_path / "b", values={"error": (0.3, 0.1, 0.7), "loss": (1.5, 2.5, 3.0)})
    there, back = compare_runs([a, b]).records(), compare_runs([b, a]).records()
    for one, other in zip(there, back, strict=True):
        assert one["difference"] == pytest.approx(-_number(other["difference"]))
        assert one["low"] == pytest.approx(-_number(other["high"]))
        assert one["high"] == pytest.approx(-_number(other["low"]))
        assert (one["mean"], one["reference"]) == (other["reference"], other["mean"])


def _number(cell: Any) -> float:
    return float(cell)


def test_a_wider_level_gives_wider_intervals(tmp_path: Path) -> None:
    ten, draw = Config(Inner(seeds=10)), np.random.default_rng(0)
    values = [{"error": tuple(draw.normal(size=10))} for _ in range(2)]
    runs = [write(tmp_path / n, ten, values=v) for n, v in zip("ab", values, strict=True)]
    (narrow,), (wide,) = (compare_runs(runs, level=level).records() for level in (0.5, 0.9))
    assert _number(wide["low"]) < _number(narrow["low"])
    assert _number(narrow["high"]) < _number(wide["high"])
    with pytest.raises(ValueError, match="level should be between 0 and 1; got 2"):
        compare_runs(runs, level=2.0)


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    runs = [write(tmp_path / "a"), write(tmp_path / "b")]
    (row,) = compare_runs(runs, only=["loss"]).records()
    assert row["quantity"] == "T1 loss"
    with pytest.raises(ValueError, match=r"only .*got \['los angeles'\], .*T1 error"):
        compare_runs(runs, only=["los angeles"])


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    with pytest.raises(ValueError, match="different folders"):
        compare_runs([a, tmp_path / "." / "a"])


def test_the_better_direction_is_that_of_the_reference_and_stands_in_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        Row.of("T1", "loss", (1.0, 2.0, 4.0), better="lower"),
        Row.of("T1", "accuracy", (0.5, 0.6, 0.7), Target(0.5, at_least=True)),
        Row.of("T1", "weights", (10, 11, 12)),
    ]
    runs = [write(tmp_path / name) for name in "ab"]
    for run in runs:
        RunFolder(run).write_metrics(rows, 1.0)
        Manifest.write(run)
        with_pointwise(run, torch.zeros(N))
    table = compare_runs(runs)
    better = {str(row["quantity"]).split(":")[0]: row["better"] for row in table.records()}
    expected = {"T1 loss": "lower", "T1 accuracy": "higher", "T1 weights": None}
    assert better == {**expected, "held-out": "higher"}

    drawn: list[Any] = []
    save = plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda f, *to: (drawn.append(f), save(f, *to))[1])
    write_comparison(table, str(runs[0]), tmp_path / "out")
    labels = [ax.get_xlabel() for ax in drawn[0].axes]
    directions = [next((w for w in ("\u2190", "\u2192") if w in label), None) for label in labels]
    assert directions == ["\u2190", "\u2192", None, "\u2192"]


def test_files_and_screen_say_what_the_table_says(tmp_path: Path) -> None:
    b = {"error": (0.3, 0.4, 0.7), "loss": (1.5, 2.5, 3.0)}
    runs = [write(tmp_path / "a"), write(tmp_path / "b", values=b)]
    table = compare_runs(runs)
    files = write_comparison(table, "a", tmp_path / "out")
    assert [f.suffix for f in files] == [".csv", ".json", ".md", ".png"]
    assert all(f.stem == "comparison" and f.exists() for f in files)
    assert files[0].read_bytes().decode() == table.to_csv_text()
    assert json.loads(files[1].read_text()) == {"caption": table.caption, "rows": table.records()}
    for width in (40, 60, 100):
        console = Console(width=width, file=io.StringIO())
        print_comparison(table, "a", 0.95, console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        for row in table.records():
            assert str(row["quantity"]) in text
            assert Path(str(row["run"])).name in text
            assert f"{_number(row['difference']):.3g}"[:4] in text
