import json
from dataclasses import replace

import arviz as az
import numpy as np
import pytest
import torch
from study_runs import check_posterior_file, without_figures

from gbi_pyro.data.images import Images, load_images
from gbi_pyro.models.image import ConditionedAutoencoder
from studies.core.logistic import PENALTIES, fit_logistic
from studies.core.runner import run
from studies.images.baselines import entropy_based, norm_based
from studies.images.bottleneck import WIDTHS
from studies.images.config import ImagesConfig
from studies.images.examples import confusion, most_named
from studies.images.features import EXACT as FEATURES_EXACT
from studies.images.features import SHRINKAGES
from studies.images.measure import ACCURACY, KL_RAW, answer, score
from studies.images.methods import EXACT, NORM_BASED, ONE_STEP, PAPER_EXACT, methods
from studies.images.networks import build_networks
from studies.images.study import ImagesStudy

FAST = ImagesConfig(seeds=2).fast()


@pytest.fixture(scope="module")
def sets():
    return load_images("digits")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    return run(ImagesStudy(FAST), tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def networks(finished, sets):
    networks = build_networks(FAST, sets, 0)
    for name, network in networks.by_name().items():
        network.load_state_dict(finished.found["images"][0].weights[name])
        network.requires_grad_(False).eval()
    return networks


@pytest.fixture(scope="module")
def answers(networks, sets):
    return answer(FAST, sets, methods(FAST, networks))


def test_exact_answers_agree_whichever_way_they_are_computed(finished):
    for record in finished.found["images"]:
        for other in ("exhaustive likelihood, affine head", "second order, affine head"):
            values = record.methods[other].values
            assert values[KL_RAW] < 1e-6
            assert values[ACCURACY] == record.methods[EXACT].values[ACCURACY]


def test_passes_are_counted(finished):
    cost = {name: m.passes[:2] for name, m in finished.found["images"][0].methods.items()}
    assert cost[ONE_STEP] == cost[EXACT] == (1, 1)
    assert cost[PAPER_EXACT] == (10, 0)
    assert cost[NORM_BASED] == (10, 10)
    assert cost["iterative, 2 steps, paper's network"] == (2, 2)


def test_every_answer_is_a_distribution(answers):
    for found in answers.values():
        total = found.test.exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)


def test_the_weights_of_a_record_answer_as_the_trained_networks_did(
    finished, networks, answers, sets
):
    again = score(sets, methods(FAST, networks), answers)
    assert again == finished.found["images"][0].methods


def test_every_file_is_written(finished):
    folder = finished.folder
    for name in ("config.json", "metrics.json", "table.md", "posterior.nc", "weights.safetensors"):
        assert (folder / name).exists()
    for figure in finished.figures:
        assert figure.exists()
        assert figure.with_suffix(".pdf").exists()
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert {len(r["values"]) for r in rows} == {FAST.seeds}
    assert len({r["what"] for r in rows}) == len(rows)
    assert not [p for p in folder.rglob("*") if "partial" in p.name]


def test_the_posterior_opens_in_arviz(finished, sets):
    data = az.from_netcdf(finished.folder / "posterior.nc")
    assert data["task_probs"]["z"].dims == ("image", "z_task")
    np.testing.assert_array_equal(data["constant_data"]["z"], sets.test.y.numpy())


def test_the_posterior_comes_back_as_it_was_written(finished):
    check_posterior_file(ImagesStudy(FAST), finished)


def test_more_seeds_reuse_the_finished_ones(finished):
    stages = []
    study = without_figures(ImagesStudy(replace(FAST, seeds=3)))
    more = run(study, finished.folder, progress=stages.append)
    earlier = [f"{part}: finished earlier" for part in ("features", "images") for _ in range(2)]
    assert sorted(stages[1:-1])[:4] == earlier
    assert {"seed 2: features", "seed 2: images"} < set(stages)
    for row in finished.rows:
        (same,) = [r for r in more.rows if r.what == row.what]
        np.testing.assert_array_equal(same.values[:2], row.values)


def test_a_sweep_measures_the_use_of_the_task_at_every_width_with_the_first_seed(tmp_path):
    config, trained = replace(FAST, epochs=1, sweep=True), []
    rows = run(without_figures(ImagesStudy(config)), tmp_path, detail=trained.append).rows
    assert sum("d = " in what for what in trained) == len(WIDTHS) * 2  # before and after the epoch
    for width, latent in WIDTHS:
        mine = [r for r in rows if f"d = {width}, {latent}:" in r.what]
        assert [len(r.values) for r in mine] == [1, 1, 1]
        gain, probe, one_step = (r.values[0] for r in mine)
        assert np.isfinite(gain)
        assert 0 <= probe <= 100
        assert 0 <= one_step <= 100
    trained.clear()
    run(without_figures(ImagesStudy(config)), tmp_path, detail=trained.append)
    assert not trained


def test_confusion_counts_every_image_once(finished, answers, sets):
    log_probs = answers[ONE_STEP].test
    counts = confusion(log_probs, sets.test.y, 10)
    assert counts.sum() == len(sets.test.y)
    assert torch.equal(counts.sum(1), torch.bincount(sets.test.y, minlength=10))
    right = (log_probs.argmax(-1) == sets.test.y).sum()
    assert counts.diagonal().sum() == right
    np.testing.assert_array_equal(finished.found["images"][0].examples.confusion, counts)


def test_one_pass_on_features_is_the_exact_posterior(finished):
    for record in finished.found["features"]:
        methods = record.methods
        assert methods[FEATURES_EXACT].passes[:2] == (1, 1)
        enumerated = methods["exhaustive likelihood, feature Gaussian"]
        assert enumerated.values[KL_RAW] < 1e-6
        assert enumerated.values[ACCURACY] == methods[FEATURES_EXACT].values[ACCURACY]
        assert methods[FEATURES_EXACT].values[ACCURACY] > 80  # digits, twenty filters
        assert record.shrinkage in SHRINKAGES
        assert record.penalty in PENALTIES


def test_logistic_regression_is_that_of_scikit_learn(generator):
    from sklearn.linear_model import LogisticRegression

    x = torch.randn(300, 4, generator=generator) * torch.tensor([1.0, 5.0, 0.1, 1.0]) + 3
    standard = (x - x.mean(0)) / x.std(0)
    y = (standard[:, :3] + 0.5 * torch.randn(300, 3, generator=generator)).argmax(-1)
    found, penalty = fit_logistic(Images(x, y), Images(x, y), 3)
    oracle = LogisticRegression(C=1 / (penalty * len(x)), max_iter=1000, tol=1e-8).fit(standard, y)
    probs = found(x).softmax(-1)
    torch.testing.assert_close(
        probs, torch.from_numpy(oracle.predict_proba(standard)).float(), rtol=0, atol=0.01
    )


def test_the_share_of_the_most_named_classes():
    assert most_named(torch.eye(20)) == 0.1
    assert most_named(torch.eye(20)[:1].repeat(9, 1)) == 1.0


def test_a_row_with_a_target_holds_a_value_for_every_seed(finished):
    (row,) = [r for r in finished.targets if r.what.startswith(f"{ONE_STEP}: accuracy")]
    found = finished.found["images"]
    assert row.values == tuple(r.methods[ONE_STEP].values[ACCURACY] for r in found)


@pytest.mark.parametrize("field", ["seeds", "epochs", "batch", "bottleneck", "codes", "chunk"])
def test_a_config_out_of_range_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1"):
        replace(FAST, **{field: 0})


def test_the_fast_study_keeps_what_was_asked_for():
    fast = ImagesConfig(seeds=1, first_seed=7, bottleneck=3).fast()
    assert (fast.all_seeds, fast.bottleneck) == (range(7, 8), 3)


@pytest.fixture
def autoencoder(generator):
    model = ConditionedAutoencoder(
        (1, 4, 4), 3, latent_size=2, hidden_size=8, generator=generator
    ).eval()
    return model.requires_grad_(False), torch.rand(5, 1, 4, 4, generator=generator)


def test_entropy_based_follows_the_steepest_fall_of_the_entropy(autoencoder):
    """Against finite differences of the entropy of the generated image."""
    model, x = autoencoder
    model, x = model.double(), x.double()

    def entropy(z):
        p = model.generate(z, like=x).flatten(1).clamp(1e-6, 1 - 1e-6)
        return (torch.special.entr(p) + torch.special.entr(1 - p)).sum(-1)

    log_probs, passes = entropy_based(model, x)
    u, step = model.uniform(len(x)), 1e-6
    slopes = [
        (entropy(u + step * e) - entropy(u - step * e)) / (2 * step)
        for e in torch.eye(3, dtype=torch.float64)
    ]
    expected = (-torch.stack(slopes, -1)).log_softmax(-1)
    torch.testing.assert_close(log_probs, expected, rtol=0, atol=1e-6)
    assert passes[:2] == (1, 1)


def test_norm_based_prefers_the_task_that_leaves_no_gradient(autoencoder):
    """An image that a task explains perfectly leaves a gradient of zero there."""
    model, x = autoencoder
    model, x = model.double(), x.double()
    # Make the decoder ignore the latent, so that a generated image keeps being explained.
    model.decoder[0].weight[:, :2] = 0
    tasks = torch.eye(3, dtype=torch.float64)
    perfect = model.generate(tasks, like=x[:3]).detach()
    log_probs, _ = norm_based(model, perfect)
    assert torch.equal(log_probs.argmax(-1), torch.arange(3))
