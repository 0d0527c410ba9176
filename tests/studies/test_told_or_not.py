"""Kinds of network on the same data: predictions are densities, and what each is conditioned on."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pytest
import torch
from arviz_versions import compare
from study_runs import check_posterior_file, without_figures
from torch import Tensor

from gbi_pyro._arviz import groups_of, makes_trees
from gbi_pyro.data.switching import Stream
from gbi_pyro.metrics.log_likelihood import Pointwise
from studies.core.runner import StudyResults, num_stages, run
from studies.core.streams import exact_filter
from studies.told_or_not import study
from studies.told_or_not.config import NETWORKS, Task, ToldOrNotConfig, generator
from studies.told_or_not.learners import Conditioned, Learner, Unlabelled, make_learner
from studies.told_or_not.measure import ToldOrNotSeed, measure, train
from studies.told_or_not.study import ToldOrNotStudy

FAST = ToldOrNotConfig(seeds=2).fast()
TASKS: list[Task] = ["labels", "none", "shuffled", "unlabelled"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyResults]:
    """One run of every kind of network, too short to show anything."""
    torch.set_num_threads(1)
    return {
        task: run(ToldOrNotStudy(replace(FAST, task=task)), tmp_path_factory.mktemp(task))
        for task in TASKS
    }


@pytest.fixture(scope="module")
def finished(results: dict[str, StudyResults]) -> dict[str, Path]:
    """The folders of these runs."""
    return {task: found.folder for task, found in results.items()}


def batches(config: ToldOrNotConfig, n: int, seed: int = 7) -> list[Stream]:
    draw = torch.Generator().manual_seed(seed)
    return [config.stream.sample(config.sequences, config.length, draw) for _ in range(n)]


def learned(task: Task, data: list[Stream]) -> Learner:
    learner = make_learner(replace(FAST, task=task), 0)
    for batch in data:
        learner.learn(batch)
    return learner


def weights(learner: Learner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.predictor.network.parameters()])


@pytest.mark.parametrize("task", TASKS)
def test_the_prediction_of_a_step_is_a_density_and_its_mean_is_the_mean(task: Task) -> None:
    """p(x_T | past) = p(x_1..T) / p(x_1..T-1), by quadrature over x_T."""
    data = batches(FAST, 3)
    predictor = learned(task, data).predictor
    past = data[0].x[:1, :-1]
    last = torch.linspace(-6, 7, 2001)
    x = torch.cat([past.expand(len(last), -1), last[:, None]], -1)
    whole, before = (predictor.infer(part).log_evidence for part in (x, past))
    assert whole is not None
    assert before is not None
    density = (whole - before).double().exp()
    # Evidence of a dozen steps in single precision is good to about 1e-6.
    assert torch.trapezoid(density, last.double()).item() == pytest.approx(1, abs=1e-5)
    mean = torch.trapezoid(density * last.double(), last.double()).item()
    assert predictor.mean(x)[0, -1].item() == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_the_future_does_not_change_the_tasks_of_the_past(task: Task) -> None:
    (x, _), predictor = batches(FAST, 1)[0], learned(task, batches(FAST, 3)).predictor
    other = torch.cat([x[:, :6], x[:, 6:] + 3.0], -1)
    a, b = predictor.infer(x).probs(), predictor.infer(other).probs()
    torch.testing.assert_close(a[:, :6], b[:, :6])
    torch.testing.assert_close(predictor.mean(x)[:, :7], predictor.mean(other)[:, :7])


@pytest.mark.parametrize("task", ["none", "unlabelled"])
def test_networks_without_labels_do_not_read_them(task: Task) -> None:
    data = batches(FAST, 3)
    wrong = [Stream(batch.x, 1 - batch.z) for batch in data]
    assert torch.equal(weights(learned(task, data)), weights(learned(task, wrong)))


@pytest.mark.parametrize("task", ["labels", "shuffled"])
def test_networks_with_labels_read_them(task: Task) -> None:
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
    conditioned = learned("labels", [batch])
    assert isinstance(conditioned, Conditioned)
    assert conditioned.predictor.chain is not None
    switches = (batch.z.diff() != 0).sum().item()
    expected = (switches + 2) / (200 * 49 + 52)
    assert conditioned.predictor.chain.hazard == pytest.approx(expected, rel=1e-5)


def test_the_cost_of_a_first_batch_is_the_evidence_of_initial_weights() -> None:
    costs = {}
    for task in TASKS:
        config = replace(FAST, task=task)
        x = config.stream.sample(config.sequences, config.length, generator(0, "train")).x
        evidence = make_learner(config, 0).predictor.infer(x).log_evidence
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


def test_labels_shorten_the_code_and_shuffled_labels_do_not() -> None:
    """The later of 30 batches at sigma .1; the differences are hundreds of nats."""
    config = ToldOrNotConfig(rounds=30, sequences=8, hidden_size=16)
    code = {task: train(replace(config, task=task), 1000).cost[20:].sum() for task in TASKS}
    assert max(code["labels"], code["unlabelled"]) < min(code["none"], code["shuffled"])


def test_all_networks_see_the_same_held_out_data(finished: dict[str, Path]) -> None:
    data = {task: az.from_netcdf(folder / "posterior.nc") for task, folder in finished.items()}
    x = data["labels"].observed_data["x"]
    assert x.dims == ("sequence", "time")
    assert x.shape == (FAST.seeds * FAST.test_sequences, FAST.test_length)
    assert all(np.array_equal(x, d.observed_data["x"]) for d in data.values())
    assert all(len(np.unique(x[:, 0])) == len(x) for d in data.values())


def metrics(folder: Path) -> dict[str, Any]:
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    return {row["what"].split(",")[0]: row for row in rows}


@pytest.mark.parametrize("task", TASKS)
def test_fixed_weights_are_scored_as_held_out(task: Task, finished: dict[str, Path]) -> None:
    found = Pointwise.read(finished[task] / "posterior.nc")
    rows = metrics(finished[task])
    total = sum(rows["log evidence of all held-out sequences given the weights"]["values"])
    assert found is not None
    assert found.criterion == "held-out"
    assert found.values.sum() == pytest.approx(total, rel=1e-6)
    held_out = rows["held-out log predictive density of the next step"]["mean"]
    steps = FAST.seeds * FAST.test_sequences * FAST.test_length
    assert held_out == pytest.approx(total / steps)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")
@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:The inplace keyword")  # ArviZ's own use of pandas
@pytest.mark.skipif(makes_trees(), reason="ArviZ 1.x has no leave-one-out of fixed weights")
def test_arviz_ranks_the_networks_by_their_log_scores(finished: dict[str, Path]) -> None:
    data = {task: az.from_netcdf(folder / "posterior.nc") for task, folder in finished.items()}
    totals = {t: float(d.log_likelihood["x"][0, 0].sum()) for t, d in data.items()}
    assert list(compare(data)) == sorted(totals, key=lambda t: -totals[t])


@pytest.mark.parametrize("task", TASKS)
def test_every_file_is_written(task: Task, finished: dict[str, Path]) -> None:
    folder = finished[task]
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    figures = {f"figures/learning.{suffix}" for suffix in ("png", "pdf")}
    files = {"config.json", "metrics.json", "table.md", "posterior.nc"}
    pieces = {f"pieces/told-or-not-seed-{seed}.npz" for seed in FAST.all_seeds}
    assert names == files | figures | pieces | {"weights.safetensors", "weights.json", "run.json"}
    assert {len(row["values"]) for row in metrics(folder).values()} == {FAST.seeds}
    data = az.from_netcdf(folder / "posterior.nc")
    assert data.attrs["network"] == NETWORKS[task]
    probs = data.task_probs["z"]
    assert probs.dims == ("sequence", "time", "z_task")
    np.testing.assert_allclose(probs.sum("z_task"), 1, rtol=1e-5)
    assert probs.sizes["z_task"] == (1 if task == "none" else 2)
    assert ("constant_data" in groups_of(data)) == (task != "none")


def test_tasks_found_in_any_order_are_put_into_that_of_the_stream() -> None:
    config = ToldOrNotConfig(task="unlabelled", rounds=30, sequences=8, hidden_size=16)
    for seed in (1000, 1001):
        trained = train(config, seed)
        assert sorted(trained.order.tolist()) == [0, 1]
        x, z = config.stream.sample(8, 50, generator(seed, "test"))
        tasks = trained.learner.predictor.infer(x).probs()[..., trained.order].argmax(-1)
        assert (tasks == z).double().mean() > 0.9


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


def test_the_posterior_comes_back_as_it_was_written(results: dict[str, StudyResults]) -> None:
    check_posterior_file(ToldOrNotStudy(replace(FAST, task="labels")), results["labels"])


def test_a_second_run_reuses_every_seed_and_more_seeds_measure_only_the_new_ones(
    results: dict[str, StudyResults], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages: list[str] = []
    measured: list[int] = []

    def counted(config: ToldOrNotConfig, seed: int) -> ToldOrNotSeed:
        measured.append(seed)
        return measure(config, seed)

    monkeypatch.setattr(study, "measure", counted)
    config, first = replace(FAST, task="none"), results["none"]
    assert all(math.isfinite(v) for row in first.rows for v in row.values)
    again = run(without_figures(ToldOrNotStudy(config)), first.folder, progress=stages.append)
    assert len(stages) == num_stages(ToldOrNotStudy(config))
    assert [row.values for row in again.rows] == [row.values for row in first.rows]
    assert not measured
    run(without_figures(ToldOrNotStudy(replace(config, seeds=3))), first.folder)
    assert measured == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "label"}, "task should be one of labels, none, .*got 'label'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"sequences": 1}, "sequences should be at least 2"),
        ({"window": 60}, "window should lie in 1 .. length = 50; got 60"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToldOrNotConfig(**options)
