import itertools
import json
from dataclasses import replace

import arviz as az
import numpy as np
import pytest
import torch
from study_runs import check_posterior_file, without_figures

from gbi_pyro.models.sequence import SequenceLSTM
from studies.core.blocks import reference_errors
from studies.core.runner import num_stages, run
from studies.core.streams import exact_predictions
from studies.core.unseen_means import OptimisedInput
from studies.toy import identities, study, training
from studies.toy.adaptation import VALIDATION_SEEDS, blocks_of, inside_hull
from studies.toy.blocks import learn_blocks
from studies.toy.config import ToyConfig
from studies.toy.responses import flip_latency
from studies.toy.study import ToyStudy
from studies.toy.training import train_network

FAST = ToyConfig(seeds=2).fast()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run through everything, too short to show anything."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("toy")
    stages: list[str] = []
    return run(ToyStudy(FAST), folder, progress=stages.append), folder, stages


def test_the_study_covers_its_claims_with_a_value_for_every_seed(finished):
    results, _, _ = finished
    claims = {row.claim for row in results.rows}
    assert claims >= {f"T{i}" for i in range(4, 14)} | {
        "M1",
        "M2",
        "M4",
        "M6",
        "M7",
        "M8",
        "M11",
    }
    assert {len(row.values) for row in results.rows} == {FAST.seeds}


def test_identities_hold_whatever_the_training(finished):
    results, _, _ = finished
    exact = [row for row in results.rows if row.claim in ("M1", "M2", "M4", "M7", "M8")]
    assert [row.what for row in exact if row.verdict == "not reached"] == []
    assert sum(row.verdict == "reached" for row in exact) >= 8


def test_every_file_is_written_and_none_is_left_half_done(finished):
    results, folder, _ = finished
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    pieces = {f"pieces/{name}.npz" for name in ("rates-of-online-Z", "toy-seed-0", "toy-seed-1")}
    drawn = ("gradient", "figure-1", "figure-2", "figure-3")
    figures = {f"figures/{name}.{suffix}" for name in drawn for suffix in ("png", "pdf")}
    files = {"config.json", "metrics.json", "table.md", "posterior.nc"}
    assert names == files | figures | pieces | {"weights.safetensors", "weights.json", "run.json"}
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert [r["what"] for r in rows] == [row.what for row in results.rows]


def test_the_posterior_opens_in_arviz_with_the_exact_one_beside_it(finished):
    _, folder, _ = finished
    data = az.from_netcdf(folder / "posterior.nc")
    probs, exact = data["task_probs"]["z"], data["exact_task_probs"]["z"]
    assert probs.dims == exact.dims == ("sequence", "time", "z_task")
    np.testing.assert_allclose(probs.sum("z_task"), 1, atol=1e-5)
    assert data["constant_data"]["z"].shape == (FAST.test_sequences, FAST.test_length)


def test_the_posterior_comes_back_as_it_was_written(finished):
    check_posterior_file(ToyStudy(FAST), finished[0])


def test_progress_is_reported_once_a_stage(finished):
    _, _, stages = finished
    assert len(stages) == num_stages(ToyStudy(FAST))


def test_rates_are_chosen_on_seeds_that_no_result_uses(finished):
    _, folder, _ = finished
    assert not set(VALIDATION_SEEDS) & set(ToyConfig(seeds=20).all_seeds)
    chosen = json.loads((folder / "config.json").read_text())["inputs"]["rates"]
    assert set(chosen) == {"switches", "unseen"}


def test_a_second_run_reuses_every_unit_and_more_seeds_measure_only_the_new_ones(
    finished, monkeypatch
):
    results, folder, _ = finished
    measured: list[int] = []

    def counted(config, seed, *, conditioned):
        measured.append(seed)
        return learn_blocks(config, seed, conditioned=conditioned)

    monkeypatch.setattr(study, "learn_blocks", counted)
    again = run(without_figures(ToyStudy(FAST)), folder)
    assert measured == []
    for row, first in zip(again.rows, results.rows, strict=True):
        np.testing.assert_array_equal(row.values, first.values)
    run(without_figures(ToyStudy(replace(FAST, seeds=3))), folder)
    assert measured == [2, 2]  # with and without a task input


def test_the_same_seed_trains_the_same_network_and_another_seed_does_not():
    stream = FAST.stream()
    first, again, other = (train_network(FAST, seed, stream) for seed in (3, 3, 4))
    weights, weights_again, weights_other = (
        torch.nn.utils.parameters_to_vector(t.network.parameters()) for t in (first, again, other)
    )
    assert torch.equal(weights, weights_again)
    assert not torch.allclose(weights, weights_other)
    np.testing.assert_array_equal(first.curve.train_mse, again.curve.train_mse)


def test_training_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    train_network(replace(FAST, updates=2), 0, FAST.stream(), mixtures=True)
    assert torch.equal(state, torch.get_rng_state())


def test_both_networks_of_one_seed_see_the_same_data(monkeypatch):
    batches: list[torch.Tensor] = []
    draw = training.draw_batch

    def recorded(*args):
        x, z = draw(*args)
        batches.append(x)
        return x, z

    monkeypatch.setattr(training, "draw_batch", recorded)
    config = replace(FAST, updates=3)
    conditioned = train_network(config, 0, config.stream())
    plain = train_network(config, 0, config.stream(), conditioned=False)
    assert len(batches) == 6
    for mine, other in zip(batches[:3], batches[3:], strict=True):
        assert torch.equal(mine, other)
    assert conditioned.curve.floor == plain.curve.floor  # and the same validation set


def test_the_fast_study_keeps_what_was_asked_for():
    fast = ToyConfig(seeds=1, first_seed=7, sigma=0.2).fast()
    assert (fast.seeds, fast.first_seed, fast.sigma) == (1, 7, 0.2)


def test_latency_by_hand():
    z = np.array([[0, 0, 1, 1, 1, 0, 0]])
    late = np.eye(2)[[[0, 0, 0, 1, 1, 1, 1]]]  # one step late, then never in a block of two
    assert flip_latency(late, z) == 1.5
    assert flip_latency(np.eye(2)[z], z) == 0.0
    assert np.isnan(flip_latency(np.eye(2)[z[:, :2]], z[:, :2]))


def test_reference_errors_by_simulation(generator):
    config = ToyConfig()
    z = torch.randint(2, (100_000,), generator=generator)
    mu = torch.tensor(config.means)
    x = mu[z] + config.sigma * torch.randn(len(z), generator=generator)
    predictions = {
        "knows the task": mu[z],
        "always the middle": mu.mean().expand(len(z)),
        "always the wrong mean": mu[1 - z],
    }
    for name, expected in reference_errors(config.means, config.sigma).items():
        squares = (x - predictions[name]).square()
        assert squares.mean().item() == pytest.approx(
            expected, abs=5 * squares.std().item() / len(z) ** 0.5
        )


def test_the_exact_filter_predicts_better_than_what_ignores_the_past(generator):
    stream = ToyConfig().stream()
    data = stream.sample(64, 200, generator)
    error = (exact_predictions(stream, data.x) - data.x).square()
    middle = (0.5 - data.x).square()
    difference = (middle - error).mean(1)  # sequences are independent, steps are not
    assert difference.mean() > 5 * difference.std() / len(difference) ** 0.5


def test_the_bias_of_one_step_is_what_the_closed_form_says(generator):
    found = identities.five_task_divergences(generator, 0.1)
    assert found["as it is"] == pytest.approx(found["as predicted"], rel=1e-9)


def test_the_bias_grows_as_the_noise_falls():
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    noisy, clear = (
        identities.five_task_divergences(d, s) for d, s in zip(draws, (0.3, 0.1), strict=True)
    )
    assert clear["as it is"] > noisy["as it is"] > 0


def test_entropy_and_penalty_agree_near_maximum_entropy_only(generator):
    cosines = [identities.penalty_cosine(norm, generator) for norm in (0.1, 1.0, 5.0, 20.0)]
    assert all(a > b for a, b in itertools.pairwise(cosines))
    assert cosines[0] > 0.99


def test_a_new_block_starts_at_a_known_mean_and_ends_at_the_unseen_one():
    config = ToyConfig(seeds=30)
    x = blocks_of(config, torch.tensor([1.2]), "test", config.all_seeds)[:, 0]
    standard_error = config.sigma / (30 * config.block_length) ** 0.5
    assert x[:, : config.block_length].mean().item() == pytest.approx(0.2, abs=5 * standard_error)
    assert x[:, config.block_length :].mean().item() == pytest.approx(1.2, abs=5 * standard_error)


def test_the_hull_holds_its_ends():
    assert inside_hull(ToyConfig()).sum() == 7  # .2, .3, .. .8


def test_a_moved_input_of_zero_is_the_network_itself(generator):
    network = SequenceLSTM(None, generator=generator)
    moved, state = OptimisedInput(network), network.initial_state(4)
    previous = torch.randn(4, generator=generator)
    expected, _ = network.step(previous, None, state)
    got, _ = moved.step(previous, torch.zeros(4, 1), state)
    assert torch.equal(expected.mean, got.mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seeds": 0}, "seeds must be at least 1"), ({"new_block": 20}, "longer than 20")],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(ToyConfig(), **change)


@pytest.mark.slow
def test_the_whole_study_reaches_its_targets(tmp_path):
    results = run(ToyStudy(ToyConfig()), tmp_path)
    assert [row.what for row in results.rows if row.verdict == "not reached"] == []
