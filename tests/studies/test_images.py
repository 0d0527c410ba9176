import json
from dataclasses import replace

import arviz as az
import numpy as np
import pytest
import torch

from gbi_pyro.data.images import Images, load_images
from studies.images.bottleneck import WIDTHS, sweep
from studies.images.config import ImagesConfig
from studies.images.measure import (
    ACCURACY,
    KL_RAW,
    Measured,
    confusion,
)
from studies.images.methods import EXACT, ONE_STEP, PAPER_EXACT
from studies.images.rivals import entropy_based, norm_based
from studies.images.rows import bar_rows
from studies.images.study import run
from studies.images.training import KINDS, build, fit
from gbi_pyro.models.image import ConditionedAutoencoder

FAST = ImagesConfig(
    seeds=2, epochs=2, hidden=32, latent=16, affine_hidden=32, codes=16, iterative_steps=(2,)
)


@pytest.fixture(scope="module")
def sets():
    return load_images("digits")


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("images")
    return run(FAST, sets, folder), folder


def by_name(measured: list[Measured]) -> dict[str, Measured]:
    return {m.method.name: m for m in measured}


def test_exact_answers_agree_whichever_way_they_are_had(finished):
    results, _ = finished
    for seed in results.by_seed:
        found = by_name(seed)
        for other in ("exhaustive likelihood, affine head", "second order, affine head"):
            assert found[other].values[KL_RAW] < 1e-6
            assert found[other].values[ACCURACY] == found[EXACT].values[ACCURACY]


def test_passes_are_counted(finished):
    results, _ = finished
    found = by_name(results.by_seed[0])
    assert found[ONE_STEP].passes[:2] == found[EXACT].passes[:2] == (1, 1)
    assert found[PAPER_EXACT].passes[:2] == (10, 0)
    assert found["NBI, paper's network"].passes[:2] == (10, 10)
    assert found["iterative, 2 steps, paper's network"].passes[:2] == (2, 2)


def test_every_answer_is_a_distribution(finished):
    results, _ = finished
    for measured in results.by_seed[0]:
        total = measured.log_probs.exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)


def test_every_file_is_written(finished):
    results, folder = finished
    for name in ("config.json", "metrics.json", "table.md", "posterior.nc", "weights.safetensors"):
        assert (folder / name).exists()
    for figure in results.figures:
        assert figure.exists()
        assert figure.with_suffix(".pdf").exists()
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert {len(r["values"]) for r in rows} == {FAST.seeds}
    assert not [p for p in folder.rglob("*") if "partial" in p.name]


def test_the_posterior_opens_in_arviz(finished, sets):
    _, folder = finished
    data = az.from_netcdf(folder / "posterior.nc")
    assert data["task_probs"]["z"].dims == ("image", "z_task")
    np.testing.assert_array_equal(data["constant_data"]["z"], sets.test.y.numpy())


def test_a_finished_run_takes_up_its_checkpoints_and_says_the_same(finished, sets):
    results, folder = finished
    again = run(FAST, sets, folder)
    for first, second in zip(results.by_seed, again.by_seed, strict=True):
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a.log_probs, b.log_probs)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_ends_with_the_same_weights(kind, sets, tmp_path):
    config = replace(FAST, epochs=3)
    few = Images(sets.train.x[:300], sets.train.y[:300])

    def train(path, stop=None):
        network = build(config, sets, kind, 0)

        def report(what):
            if stop is not None and f"epoch {stop} " in what:
                raise KeyboardInterrupt

        fit(config, network, few, 0, path, kind, report)
        return network.state_dict()

    whole = train(tmp_path / "whole.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut.safetensors", stop=1)
    resumed = train(tmp_path / "cut.safetensors")
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_sweep_measures_the_use_of_the_task_at_every_width(sets, tmp_path):
    config, stages = replace(FAST, epochs=1), []
    rows = sweep(config, sets, tmp_path, stages.append)
    assert len(stages) == len(WIDTHS) * 2  # before the epoch and after it
    for width, latent in WIDTHS:
        mine = [r for r in rows if f"d = {width}, {latent}:" in r.what]
        assert len(mine) == 3
        gain, probe, one_step = (r.values[0] for r in mine)
        assert np.isfinite(gain)
        assert 0 <= probe <= 100
        assert 0 <= one_step <= 100


def test_confusion_counts_every_image_once(finished, sets):
    results, _ = finished
    log_probs = by_name(results.by_seed[0])[ONE_STEP].log_probs
    counts = confusion(log_probs, sets.test.y, 10)
    assert counts.sum() == len(sets.test.y)
    assert torch.equal(counts.sum(1), torch.bincount(sets.test.y, minlength=10))
    right = (log_probs.argmax(-1) == sets.test.y).sum()
    assert counts.diagonal().sum() == right


def test_bars_hold_the_mean_over_seeds(finished):
    results, _ = finished
    accuracy = [by_name(seed)[ONE_STEP].values[ACCURACY] for seed in results.by_seed]
    (row,) = [r for r in bar_rows(results.by_seed) if r.what.startswith(f"{ONE_STEP}: accuracy")]
    assert row.values == tuple(accuracy)


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
