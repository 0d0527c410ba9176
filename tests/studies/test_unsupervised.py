"""Unsupervised learning on tiny data: what the study computes is checked against what must hold."""

import itertools
import json
from dataclasses import replace

import arviz as az
import numpy as np
import pytest
import torch
from study_runs import check_posterior_file, without_figures

from gbi_pyro.learning.m_step import task_table
from studies.core.runner import num_stages, run
from studies.unsupervised import batch, labels, online, validation
from studies.unsupervised.baselines import (
    _moments,
    baum_welch,
    sticky_transition,
    with_labels,
)
from studies.unsupervised.config import NOISY, USUAL, UnsupervisedConfig, generator
from studies.unsupervised.figures import draw_online
from studies.unsupervised.networks import SideBySide, TaskMeans
from studies.unsupervised.scores import found_all, match_tasks, score
from studies.unsupervised.streams import (
    MEANS,
    Condition,
    exact_posterior,
    number_conditions,
    online_conditions,
)
from studies.unsupervised.study import UnsupervisedStudy

F64 = torch.float64
FAST = UnsupervisedConfig(seeds=2).fast()


def silent(_what: str) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run through everything, too short to show anything."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unsupervised")
    stages: list[str] = []
    return run(UnsupervisedStudy(FAST), folder, progress=stages.append), folder, stages


def test_every_file_is_written_and_every_row_has_a_value_for_each_data_set(finished):
    results, folder, _ = finished
    names = {str(p.relative_to(folder)) for p in folder.iterdir() if p.is_file()}
    files = {"config.json", "metrics.json", "table.md", "posterior.nc"}
    assert names == files | {"weights.safetensors", "weights.json", "run.json"}
    assert all(path.exists() for path in results.figures)
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert len(rows) == len(results.rows)
    assert [r["what"] for r in rows if r["verdict"]] == [r.what for r in results.targets]
    assert {row.claim for row in results.rows} == {f"D{i}" for i in range(1, 8)}
    assert {row.claim for row in results.targets} == {f"D{i}" for i in range(1, 8)}
    pooled = len(number_conditions(FAST)) * FAST.seeds
    assert {len(row.values) for row in results.rows} == {FAST.seeds, pooled}


def test_the_posterior_lies_beside_the_exact_one(finished):
    _, folder, _ = finished
    data = az.from_netcdf(folder / "posterior.nc")
    probs, exact = data["task_probs"]["z"], data["exact_task_probs"]["z"]
    assert probs.dims == exact.dims == ("sequence", "time", "z_task")
    np.testing.assert_allclose(probs.sum("z_task"), 1, atol=1e-5)


def test_the_posterior_comes_back_as_it_was_written(finished):
    check_posterior_file(UnsupervisedStudy(FAST), finished[0])


def test_progress_is_reported_once_a_stage(finished):
    _, _, stages = finished
    assert len(stages) == len(set(stages)) == num_stages(UnsupervisedStudy(FAST))


def test_a_second_run_reuses_every_unit_and_more_seeds_measure_only_the_new_ones(
    finished, monkeypatch
):
    results, folder, _ = finished
    measured: list[tuple[int, ...]] = []
    parts = UnsupervisedStudy.parts

    def recorded(part):
        def measure(seeds, report):
            measured.append(seeds)
            return part.measure(seeds, report)

        return replace(part, measure=measure)

    monkeypatch.setattr(UnsupervisedStudy, "parts", lambda study: [*map(recorded, parts(study))])
    again = run(without_figures(UnsupervisedStudy(FAST)), folder)
    assert measured == []
    assert [row.as_dict() for row in again.rows] == [row.as_dict() for row in results.rows]
    run(without_figures(UnsupervisedStudy(replace(FAST, seeds=3))), folder)
    assert measured == [(2,)] * len(results.found)


@pytest.mark.parametrize("measure", [batch.measure_found, labels.measure_labels])
def test_a_data_set_side_by_side_with_others_is_learned_as_alone(measure):
    condition = Condition(2, 0.1)
    for seed, together in enumerate(measure(FAST, condition, [0, 1], silent)):
        (alone,) = measure(FAST, condition, [seed], silent)
        # Adam adds 1e-8 to gradients, which are divided by the number of networks.
        np.testing.assert_allclose(alone.means, together.means, rtol=0, atol=1e-6)


def test_a_stream_is_scored_with_others_as_alone():
    condition = Condition(2, 0.1)
    for seed, together in enumerate(online.measure_online(FAST, condition, [0, 1], silent)):
        (alone,) = online.measure_online(FAST, condition, [seed], silent)
        assert list(alone.scores) == list(together.scores)
        for method, scores in alone.scores.items():
            assert scores.error == pytest.approx(together.scores[method].error, rel=1e-5)
            assert scores.accuracy == together.scores[method].accuracy


def test_a_figure_is_drawn_from_records_alone(finished, monkeypatch):
    results, _, _ = finished
    monkeypatch.setattr(online, "learn", None)  # which no one can call
    conditions = Condition(2, USUAL), Condition(2, NOISY)
    records = {c: results.found[f"online: {c.name}"] for c in conditions}
    a, b, c, d = draw_online(records).axes
    shown = records[Condition(2, NOISY)][0].first_steps
    np.testing.assert_allclose(a.lines[0].get_ydata(), shown.x)
    np.testing.assert_allclose(b.lines[-1].get_ydata(), shown.filtered[:, 1])
    assert len(c.lines) == len(d.lines) == 2


def test_networks_side_by_side_learn_as_each_alone():
    draw = torch.Generator().manual_seed(0)
    means = torch.rand(3, 2, generator=draw, dtype=F64)
    x = FAST.stream(MEANS[2], 0.1).sample(6, 15, draw, dtype=F64).x

    def learned(means, x):
        network = SideBySide(means)
        em = batch.trainer(replace(FAST, batch_rate=0.03, batch_noise_rate=0.1), network, 2)
        for _ in range(5):
            em.step(x)
        return network.means.detach(), network.sigma.detach()

    together = learned(means, x)
    alone = [learned(means[i : i + 1], x[2 * i : 2 * i + 2]) for i in range(3)]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-6, atol=1e-6)


def test_the_network_of_a_stream_is_one_of_those_side_by_side():
    means, x = torch.tensor([0.3, 0.6, 0.9]), torch.tensor([[0.2, 0.5]])
    one, many = TaskMeans(means), SideBySide(means[None])
    table = task_table(many, (x,)).likelihood[:, 0].mT  # (T, K)
    for x_t, row in zip(x[0], table, strict=True):
        torch.testing.assert_close(one.step(x_t, torch.eye(3), None)[0].log_prob(x_t), row)


def test_one_gradient_step_is_k_forward_passes_where_the_mean_is_affine():
    condition = Condition(2, 0.1)
    x = condition.sample(FAST, 0).x[0]
    runs = [online.learn(FAST, replace(condition, order=order), 0, x).run for order in (None, 1, 2)]
    for other in runs[1:]:
        torch.testing.assert_close(other.filtered, runs[0].filtered, rtol=1e-4, atol=1e-4)


def test_a_stream_is_learned_without_labels():
    config = UnsupervisedConfig(seeds=1, first_seed=validation.FIRST_SEED)
    loss, _, error = validation.losses(config, Condition(2, USUAL))
    assert loss <= 0.01
    assert error <= 1.1


def test_validation_streams_are_no_study_streams():
    config = validation.candidates(UnsupervisedConfig())[0]
    assert config.first_seed > 10_000
    assert len(validation.candidates(config)) == 18
    several = validation.several(UnsupervisedConfig())
    assert {c.first_seed for c in several} == {config.first_seed}
    own = replace(UnsupervisedConfig(), seeds=config.seeds, first_seed=config.first_seed)
    assert own in several


def test_hypotheses_are_compared_where_one_learner_falls_short(finished):
    results, _, _ = finished
    conditions = online_conditions(FAST)
    several = [
        c for c in conditions if online.SEVERAL in results.found[f"online: {c.name}"][0].scores
    ]
    assert several == [c for c in conditions if c.several]
    assert {c.num_tasks for c in several} == {2, 5}
    learners = {online.UNLABELLED, online.SEVERAL}
    for c in several:
        for record in results.found[f"online: {c.name}"]:
            assert set(record.collapsed) == set(record.steps_per_second) == learners


def test_one_hypothesis_of_the_same_settings_is_the_single_learner():
    condition = Condition(2, NOISY)
    same = replace(FAST, hazard_guesses=(FAST.hazard_guess,), adam_epsilons=(1e-8,))
    same = replace(same, stay=48.0, switch=2.0)  # 2 of 50, the hazard where learning begins
    x = condition.sample(FAST, 0).x[0]
    one, several = (learn(same, condition, 0, x) for learn in (online.learn, online.learn_several))
    torch.testing.assert_close(several.run.filtered, one.run.filtered)
    torch.testing.assert_close(several.run.mean, one.run.mean)


def test_the_moments_of_known_tasks_are_their_sample_moments():
    z = torch.tensor([[[0, 0, 1, 1, 0]]])
    x = torch.tensor([[[0.0, 1.0, 5.0, 7.0, 2.0]]], dtype=F64)
    q = torch.nn.functional.one_hot(z, 2).to(F64)
    pairs = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]], dtype=F64)
    found = _moments(x, q, pairs)
    torch.testing.assert_close(found.means, torch.tensor([[1.0, 6.0]], dtype=F64))
    torch.testing.assert_close(found.sigma, torch.tensor([[(2 / 3) ** 0.5, 1.0]], dtype=F64))
    torch.testing.assert_close(found.log_transition.exp(), torch.full((1, 2, 2), 0.5, dtype=F64))


def test_baum_welch_never_lowers_the_evidence():
    draw = torch.Generator().manual_seed(1)
    x = FAST.stream(MEANS[3], 0.3).sample(4, 40, draw, dtype=F64).x.unflatten(0, (2, 2))
    evidence = [
        baum_welch(x, 3, replace(FAST, baseline_steps=n)).posterior(x).log_evidence.sum(-1)
        for n in (1, 2, 3, 5, 8)
    ]
    for before, after in itertools.pairwise(evidence):
        assert bool((after >= before - 1e-9 * before.abs()).all())


def test_the_network_with_labels_comes_to_the_means_of_its_tasks():
    draw = torch.Generator().manual_seed(2)
    x, z = (part.unflatten(0, (2, 5)) for part in FAST.stream(MEANS[2], 0.1).sample(10, 60, draw))
    found = with_labels(x, z, 2, replace(FAST, baseline_steps=30))
    means = torch.stack([torch.stack([a[b == k].mean() for k in (0, 1)]) for a, b in zip(x, z)])  # noqa: B905
    # The prior over tasks is uniform, so nothing but the data moves a mean.
    torch.testing.assert_close(found.means.float(), means, atol=2e-3, rtol=0)
    leaves = (z.diff() != 0).double().mean((1, 2))
    n = z[0].diff().numel()
    hazard = (leaves * n + FAST.switch) / (n + FAST.switch + FAST.stay)
    torch.testing.assert_close(1 - found.log_transition[:, 0, 0].exp(), hazard)


def test_with_every_label_the_hazard_is_their_count():
    draw = torch.Generator().manual_seed(3)
    x, z = (part.unflatten(0, (2, 4)) for part in FAST.stream(MEANS[3], 0.1).sample(8, 50, draw))
    found = labels.learn_hazard(FAST, x, z, torch.tensor([MEANS[3]] * 2), torch.full((2,), 0.1))
    leaves, n = (z.diff() != 0).double().sum((1, 2)), z[0].diff().numel()
    hazard = (leaves + FAST.switch) / (n + FAST.switch + FAST.stay)
    torch.testing.assert_close(1 - found.log_transition[:, 1, 1].exp(), hazard)


def test_scores_do_not_depend_on_the_order_of_the_tasks():
    stream = FAST.stream(MEANS[3], 0.1)
    x, z = stream.sample(1, 80, torch.Generator().manual_seed(4))
    exact = exact_posterior(stream, x)
    q, log_q = exact.log_filtered[0].exp(), exact.log_filtered[0]
    mean = exact.log_predicted[0].exp() @ torch.tensor(stream.means).double()
    truth = x[0], z[0], log_q, 20
    found = score(match_tasks(q, z[0], 20), mean, *truth)
    assert found.accuracy == (q[-20:].argmax(-1) == z[0, -20:]).double().mean().item()
    assert found.divergence == pytest.approx(0, abs=1e-9)
    assert found.error == pytest.approx((mean[-20:] - x[0, -20:]).square().mean().item())
    assert score(match_tasks(q[:, [2, 0, 1]], z[0], 20), mean, *truth) == found


def test_tasks_are_not_matched_on_the_scored_steps():
    z = torch.tensor([0] * 10 + [1] * 10)
    q = torch.nn.functional.one_hot(z, 2).double()
    wrong = torch.cat([q[:10], 1 - q[10:]])  # one task for all
    matched = match_tasks(wrong, z, 10)
    found = score(matched, torch.zeros(20), torch.zeros(20), z, q.clamp_min(1e-9).log(), 10)
    assert found.accuracy == 0


def test_a_task_shared_by_two_is_not_found():
    z = torch.tensor([0, 0, 1, 1, 2, 2])
    q = torch.nn.functional.one_hot(z, 3).double()
    assert found_all(q[:, [1, 2, 0]], z)
    q[4:] = q[0]
    assert not found_all(q, z)


def test_labels_are_hidden_by_their_share():
    z = torch.zeros(1, 100, 100).long()
    assert torch.equal(labels.hide_labels(z, 1.0, [0]), z)
    assert bool((labels.hide_labels(z, 0.0, [0]) == -1).all())
    known = (labels.hide_labels(z, 0.1, [0]) == 0).double().mean().item()
    assert known == pytest.approx(0.1, abs=4 * (0.09 / z.numel()) ** 0.5)


def test_chains_of_a_hazard_each():
    hazard = torch.tensor([0.1, 0.3])
    found = sticky_transition(hazard, 4).exp()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 4))
    torch.testing.assert_close(1 - found.diagonal(dim1=-2, dim2=-1), hazard[:, None].expand(2, 4))


def test_no_seed_and_role_share_a_generator():
    seeds = {generator(s, role).initial_seed() for s in range(50) for role in generator.names}
    assert len(seeds) == 50 * len(generator.names)


def test_the_fast_study_keeps_what_was_asked_for():
    fast = UnsupervisedConfig(seeds=1, first_seed=7, rate=0.5).fast()
    assert (fast.seeds, fast.first_seed, fast.rate) == (1, 7, 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"steps": 500}, "steps must be at least twice tail = 300"),
        ({"sigmas": (0.1,)}, r"sigmas must contain 0.1 and 0.3"),
        ({"sequences": 1}, "sequences and most_tasks must be at least 2"),
        ({"window": 200}, "window must be at most length = 100"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(UnsupervisedConfig(), **change)
