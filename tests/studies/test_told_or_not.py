"""Kinds of network on the same data: what they predict is a density, and what they are told."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pytest
import torch
from torch import Tensor

from gbi_pyro.data.switching import Stream
from studies.told_or_not.config import KINDS, FitConfig, Task, generator
from studies.told_or_not.learners import Learner, Told, Unlabelled, make_learner
from studies.told_or_not.study import num_stages, run, train
from studies.toy.evidence import exact_filter

FAST = FitConfig(seeds=2).fast()
TASKS: list[Task] = ["labels", "none", "shuffled", "unlabelled"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of every kind, too short to show anything."""
    torch.set_num_threads(1)
    folders = {task: tmp_path_factory.mktemp(task) for task in TASKS}
    for task, folder in folders.items():
        run(replace(FAST, task=task), folder)
    return folders


def batches(config: FitConfig, n: int, seed: int = 7) -> list[Stream]:
    draw = torch.Generator().manual_seed(seed)
    return [config.stream.sample(config.sequences, config.length, draw) for _ in range(n)]


def learned(task: Task, data: list[Stream]) -> Learner:
    learner = make_learner(replace(FAST, task=task), 0)
    for batch in data:
        learner.learn(batch)
    return learner


def weights(learner: Learner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.network.parameters()])


@pytest.mark.parametrize("task", TASKS)
def test_the_prediction_of_a_step_is_a_density_and_its_mean_is_the_mean(task: Task) -> None:
    """p(x_T | past) = p(x_1..T) / p(x_1..T-1), by quadrature over x_T."""
    data = batches(FAST, 3)
    learner = learned(task, data)
    past = data[0].x[:1, :-1]
    last = torch.linspace(-6, 7, 2001)
    x = torch.cat([past.expand(len(last), -1), last[:, None]], -1)
    whole, before = (learner.infer(part).log_evidence for part in (x, past))
    assert whole is not None
    assert before is not None
    density = (whole - before).double().exp()
    # Evidence of a dozen steps in single precision is good to about 1e-6.
    assert torch.trapezoid(density, last.double()).item() == pytest.approx(1, abs=1e-5)
    mean = torch.trapezoid(density * last.double(), last.double()).item()
    assert learner.mean(x)[0, -1].item() == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_the_future_does_not_change_what_the_past_was_taken_for(task: Task) -> None:
    (x, _), learner = batches(FAST, 1)[0], learned(task, batches(FAST, 3))
    other = torch.cat([x[:, :6], x[:, 6:] + 3.0], -1)
    a, b = learner.infer(x).probs(), learner.infer(other).probs()
    torch.testing.assert_close(a[:, :6], b[:, :6])
    torch.testing.assert_close(learner.mean(x)[:, :7], learner.mean(other)[:, :7])


@pytest.mark.parametrize("task", ["none", "unlabelled"])
def test_who_is_told_nothing_does_not_look(task: Task) -> None:
    data = batches(FAST, 3)
    wrong = [Stream(batch.x, 1 - batch.z) for batch in data]
    assert torch.equal(weights(learned(task, data)), weights(learned(task, wrong)))


@pytest.mark.parametrize("task", ["labels", "shuffled"])
def test_who_is_told_looks(task: Task) -> None:
    data = batches(FAST, 3)
    wrong = [Stream(batch.x, 1 - batch.z) for batch in data]
    assert not torch.equal(weights(learned(task, data)), weights(learned(task, wrong)))


def test_a_shuffled_task_is_the_true_one_of_another_sequence() -> None:
    data = batches(FAST, 3)
    moved = [Stream(batch.x, batch.z.roll(1, 0)) for batch in data]
    assert torch.equal(weights(learned("shuffled", data)), weights(learned("labels", moved)))
    assert not torch.equal(weights(learned("shuffled", data)), weights(learned("labels", data)))


def test_the_chain_learns_the_hazard_of_the_labels() -> None:
    """(switches + 2) / (pairs + 52), the most probable one under the pseudo-counts."""
    batch = FAST.stream.sample(200, 50, torch.Generator().manual_seed(0))
    told = learned("labels", [batch])
    assert isinstance(told, Told)
    switches = (batch.z.diff() != 0).sum().item()
    expected = (switches + 2) / (200 * 49 + 52)
    assert told.chain.hazard == pytest.approx(expected, rel=1e-5)


def test_what_a_first_batch_costs_is_the_evidence_of_weights_that_saw_nothing() -> None:
    costs = {}
    for task in TASKS:
        config = replace(FAST, task=task)
        x = config.stream.sample(config.sequences, config.length, generator(0, "train")).x
        evidence = make_learner(config, 0).infer(x).log_evidence
        assert evidence is not None
        trained = train(config, 0)
        assert trained.cost[0] == pytest.approx(-evidence.double().sum().item(), rel=1e-6)
        best = exact_filter(config.stream, x).log_evidence
        assert best is not None
        assert trained.cost_best[0] == pytest.approx(-best.double().sum().item(), rel=1e-6)
        costs[task] = trained.cost
    assert costs["labels"][0] == costs["shuffled"][0] == costs["unlabelled"][0]
    assert costs["labels"][1] != costs["shuffled"][1]


def test_a_later_batch_is_predicted_before_it_is_learned() -> None:
    """The same first batches cost the same, whatever comes after them."""
    short, long = (train(replace(FAST, rounds=n), 0) for n in (2, 3))
    # The rate falls from half of the rounds on: the first update is the same for both.
    assert short.cost.tolist() == long.cost[:2].tolist()


def test_labels_shorten_the_code_and_labels_of_others_do_not() -> None:
    """The later of 30 batches at sigma .1; the differences are hundreds of nats."""
    config = FitConfig(rounds=30, sequences=8, hidden_size=16)
    code = {task: train(replace(config, task=task), 1000).cost[20:].sum() for task in TASKS}
    assert max(code["labels"], code["unlabelled"]) < min(code["none"], code["shuffled"])


def test_all_kinds_see_the_same_held_out_data(finished: dict[str, Path]) -> None:
    data = {task: az.from_netcdf(folder / "posterior.nc") for task, folder in finished.items()}
    x = data["labels"].observed_data["x"]
    assert x.dims == ("sequence", "time")
    assert x.shape == (FAST.seeds * FAST.test_sequences, FAST.test_length)
    assert all(np.array_equal(x, d.observed_data["x"]) for d in data.values())
    assert all(len(np.unique(x[:, 0])) == len(x) for d in data.values())


def metrics(folder: Path) -> dict[tuple[str, str], Any]:
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    return {(row["statement"], row["what"].split(",")[0]): row for row in rows}


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("task", TASKS)
def test_leave_one_out_of_fixed_weights_is_the_log_score(
    task: Task, finished: dict[str, Path]
) -> None:
    data = az.from_netcdf(finished[task] / "posterior.nc")
    found = az.loo(data)
    rows = metrics(finished[task])
    total = sum(rows["log evidence", "of all held-out sequences given the weights"]["values"])
    assert found.elpd_loo == pytest.approx(total, rel=1e-6)
    assert found.p_loo == pytest.approx(0, abs=1e-6 * abs(total))
    held_out = rows["held-out", "log predictive density of the next step"]["mean"]
    steps = FAST.seeds * FAST.test_sequences * FAST.test_length
    assert held_out == pytest.approx(total / steps)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:The inplace keyword")  # ArviZ's own use of pandas
def test_arviz_ranks_the_kinds_by_their_log_scores(finished: dict[str, Path]) -> None:
    data = {task: az.from_netcdf(folder / "posterior.nc") for task, folder in finished.items()}
    totals = {t: float(d.log_likelihood["log_evidence"][0, 0].sum()) for t, d in data.items()}
    table = az.compare(data, ic="loo")
    assert list(table.index) == sorted(totals, key=lambda t: -totals[t])


@pytest.mark.parametrize("task", TASKS)
def test_every_file_is_written_and_says_what_was_run(task: Task, finished: dict[str, Path]) -> None:
    folder = finished[task]
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    figures = {f"figures/learning.{suffix}" for suffix in ("png", "pdf")}
    files = {"config.json", "metrics.json", "table.md", "posterior.nc"}
    assert names == files | figures | {"weights.safetensors", "weights.json"}
    assert {len(row["values"]) for row in metrics(folder).values()} == {FAST.seeds}
    data = az.from_netcdf(folder / "posterior.nc")
    assert data.attrs["kind"] == KINDS[task]
    probs = data.task_probs["z"]
    assert probs.dims == ("sequence", "time", "z_task")
    np.testing.assert_allclose(probs.sum("z_task"), 1, rtol=1e-5)
    assert probs.sizes["z_task"] == (1 if task == "none" else 2)
    assert ("constant_data" in data.groups()) == (task != "none")


def test_tasks_found_in_any_order_bear_the_names_of_the_stream() -> None:
    config = FitConfig(task="unlabelled", rounds=30, sequences=8, hidden_size=16)
    for seed in (1000, 1001):
        trained = train(config, seed)
        assert sorted(trained.names.tolist()) == [0, 1]
        x, z = config.stream.sample(8, 50, generator(seed, "test"))
        named = trained.learner.infer(x).probs()[..., trained.names].argmax(-1)
        assert (named == z).double().mean() > 0.9


def test_unlabelled_begins_with_windows_and_goes_on_alone() -> None:
    data = batches(FAST, 3)
    learner = learned("unlabelled", data)
    assert isinstance(learner, Unlabelled)
    assert learner.done == 3
    assert FAST.start_rounds == 2
    assert len(learner.em.history) == 3
    again = make_learner(replace(FAST, task="unlabelled", start_rounds=0), 0)
    for batch in data:
        again.learn(batch)
    assert not torch.equal(weights(learner), weights(again))


def test_progress_is_reported_as_often_as_announced(tmp_path: Path) -> None:
    stages: list[str] = []
    config = replace(FAST, task="none")
    results = run(config, tmp_path, stages.append)
    assert len(stages) == num_stages(config)
    assert all(math.isfinite(v) for row in results.rows for v in row.values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "label"}, "task should be one of labels, none, .*got 'label'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"sequences": 1}, "sequences should be at least 2"),
        ({"window": 60}, "window should lie in 1 .. length = 50; got 60"),
    ],
)
def test_unfit_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitConfig(**options)
