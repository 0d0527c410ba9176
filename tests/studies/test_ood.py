import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from gbi_pyro.data.images import flip_vertical, load_images
from studies.images.config import ImagesConfig
from studies.ood.study import OutlierConfig, case_rows, num_stages, run
from studies.ood.scores import (
    BASELINE,
    NO_CHOICE,
    prepared,
    pseudo_outliers,
    scores,
    scores_in_chunks,
    train_detectors,
)

FAST = OutlierConfig(
    ImagesConfig(seeds=1, epochs=3, latent=16, affine_hidden=64, codes=16),
    ensemble=2,
    bootstrap=20,
)


@pytest.fixture(scope="module")
def sets():
    return load_images("digits")


@pytest.fixture(scope="module")
def detectors(sets, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("detectors")
    return train_detectors(FAST.images, sets, 0, 2, folder, lambda _what: None)


@pytest.fixture(scope="module")
def finished(sets, tmp_path_factory):
    torch.set_num_threads(1)
    folder, stages = tmp_path_factory.mktemp("ood"), []
    return run(FAST, [sets], folder, stages.append), folder, stages


def test_each_image_has_its_own_score_whatever_the_batch(detectors, sets):
    x = sets.test.x[:7]
    together, apart = scores(detectors, x), scores_in_chunks(detectors, x, 2)
    for name, values in together.items():
        assert values.shape == (7,)
        torch.testing.assert_close(values, apart[name], rtol=1e-4, atol=1e-4)


def test_the_baseline_knows_no_network(detectors, sets, tmp_path):
    config = replace(FAST.images, epochs=1)
    other = train_detectors(config, sets, 5, 1, tmp_path, lambda _what: None)
    x = sets.test.x[:20]
    torch.testing.assert_close(scores(detectors, x)[BASELINE], scores(other, x)[BASELINE])


def test_the_default_is_the_score_that_is_best_on_validation_over_everything(finished):
    results, _, _ = finished
    mean = {
        name: np.mean([case.validation[0][name] for case in results.cases])
        for name in results.cases[0].validation[0]
    }
    assert mean[results.default] == max(mean.values())
    assert results.default not in NO_CHOICE
    for case in results.cases:
        (own,) = case.of_best_on_validation()
        assert own == case.detections[case.best_on_validation(0)][0]
        assert not set(NO_CHOICE) & set(case.validation[0])


def test_pseudo_outliers_come_from_the_images_given(sets):
    x = sets.validation.x[:10]
    made = pseudo_outliers(x, 0)
    assert all(images.shape == x.shape for images in made.values())
    assert torch.equal(made["a quarter turn"].rot90(-1, (-2, -1)), x)
    quarters = made["quarters exchanged"]
    assert torch.equal(quarters[..., :4, :4], x[..., 4:, 4:])
    assert torch.equal(quarters[..., 4:, :4], x[..., :4, 4:])
    order = made["pixels in another order"].flatten(1)
    assert torch.equal(order.sort().values, x.flatten(1).sort().values)
    # Both kinds made of two images are made of two different ones.
    halves = made["halves of two"]
    others = torch.stack([(x[..., 4:] - h[..., 4:]).abs().amax((1, 2, 3)).argmin() for h in halves])
    assert not (others == torch.arange(10)).any()
    assert torch.equal(halves, torch.cat([x[..., :4], x[others][..., 4:]], -1))
    assert torch.equal(made["average of two"], (x + x[others]) / 2)


def test_no_pseudo_outlier_is_a_kind_that_is_tested_on(sets):
    x = sets.validation.x[:10]
    for made in pseudo_outliers(x, 0).values():
        assert not torch.equal(made, flip_vertical(x))


def test_normalised_images_have_mean_zero_and_the_same_labels(sets):
    images = prepared(sets, normalised=True)
    assert images.train.x.flatten(1).mean(1).abs().max() < 1e-5
    assert torch.equal(images.train.y, sets.train.y)
    assert prepared(sets, normalised=False) is sets


def test_the_study_writes_every_score_of_every_case(finished):
    results, folder, stages = finished
    assert [c.title for c in results.cases] == [
        "digits -> upside down, raw",
        "digits -> upside down, normalised",
    ]
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert len(rows) == sum(len(case_rows(c, results.default)) for c in results.cases)
    assert all(0 <= value <= 1 for row in rows for value in row["values"])
    assert len(stages) == num_stages(FAST)


@pytest.mark.parametrize("change", [{"ensemble": 0}, {"bootstrap": 0}])
def test_a_config_out_of_range_is_refused(change):
    with pytest.raises(ValueError, match="at least 1"):
        replace(FAST, **change)


def test_sets_that_cannot_be_compared_are_refused_before_any_training(sets, tmp_path):
    larger = sets.test._replace(x=torch.zeros(len(sets.test.x), 1, 28, 28))
    other = sets._replace(name="larger", test=larger)
    for pair, message in (([sets, other], "one shape"), ([sets, sets], "choose two")):
        with pytest.raises(ValueError, match=message):
            run(FAST, pair, tmp_path)
    assert not list(tmp_path.iterdir())
