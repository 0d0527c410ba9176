import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from study_runs import without_figures

from gbi_pyro.data.images import flip_vertical, load_images
from gbi_pyro.metrics.auroc import AUROC
from studies.core.runner import num_stages, run
from studies.ood import study as ood
from studies.ood.config import OODConfig
from studies.ood.detect import alterations, prepare_sets, without_classes
from studies.ood.detectors import BASELINE, COMBINED, COSINE, train_detectors
from studies.ood.features import RELATIVE
from studies.ood.record import UPSIDE_DOWN, OODSeed
from studies.ood.study import OODStudy
from studies.ood.table import Case, default_score

FAST = replace(OODConfig().fast(), epochs=3, affine_hidden=64, left_out=3)


@pytest.fixture(scope="module")
def sets():
    return load_images("digits")


@pytest.fixture(scope="module")
def detectors(sets):
    torch.set_num_threads(1)
    return train_detectors(FAST, sets, 0, None, lambda _what: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    study, stages = OODStudy(FAST), []
    return study, run(study, tmp_path_factory.mktemp("ood"), progress=stages.append), stages


def test_each_image_has_its_own_score_whatever_the_batch(detectors, sets):
    x = sets.test.x[:7]
    together, apart = detectors.scores(x), replace(detectors, chunk=2).scores(x)
    for name, values in together.items():
        assert values.shape == (7,)
        torch.testing.assert_close(values, apart[name], rtol=1e-4, atol=1e-4)


def test_the_baseline_depends_on_no_network(detectors, sets):
    config = replace(FAST, epochs=1, ensemble=1)
    other = train_detectors(config, sets, 5, None, lambda _what: None)
    x = sets.test.x[:20]
    torch.testing.assert_close(detectors.scores(x)[BASELINE], other.scores(x)[BASELINE])


def test_the_default_is_the_score_that_is_best_on_validation_over_everything(finished):
    study, results, _ = finished
    cases = study.cases(results.found)
    validation = [case.records[0].validation for case in cases]
    mean = {name: np.mean([found[name] for found in validation]) for name in validation[0]}
    default = default_score(cases)
    assert mean[default] == max(mean.values())
    assert BASELINE not in mean
    for case in cases:
        (own,) = case.best_on_validation()
        (row,) = [r for r in case.rows(default) if f"own validation ({own})" in r.what]
        assert row.values == (case.aurocs(own)[0].value,)


def test_an_interval_holds_those_of_all_seeds():
    def record(auroc):
        found = AUROC(auroc, auroc - 0.1, auroc + 0.05, 0.5, 10, 10)
        return OODSeed({"a": 0.9}, {UPSIDE_DOWN: {"a": found}}, {}, {})

    case = Case("digits", UPSIDE_DOWN, False, [record(0.6), record(0.8)])
    row = case.rows("a")[0]
    assert row.values == (0.6, 0.8)
    assert (row.interval.low, row.interval.high) == pytest.approx((0.5, 0.85))


def test_alterations_are_made_of_the_images_given(sets):
    x = sets.validation.x[:10]
    made = alterations(x, 0)
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


def test_no_alteration_is_one_that_is_tested_on(sets):
    x = sets.validation.x[:10]
    for altered in alterations(x, 0).values():
        assert not torch.equal(altered, flip_vertical(x))


def test_normalised_images_have_mean_zero_and_the_same_labels(sets):
    images = prepare_sets(sets, normalised=True)
    assert images.train.x.flatten(1).mean(1).abs().max() < 1e-5
    assert torch.equal(images.train.y, sets.train.y)
    assert torch.equal(prepare_sets(sets, normalised=False).test.x, sets.test.x)


def test_the_study_writes_every_score_of_every_case(finished):
    study, results, stages = finished
    cases = study.cases(results.found)
    assert [c.title for c in cases] == [
        "digits -> upside down, raw",
        "digits -> upside down, normalised",
        "digits without 3 classes -> classes left out, raw",
        "digits without 3 classes -> classes left out, normalised",
    ]
    assert [f.stem for f in results.figures] == [
        "digits-to-upside-down-raw",
        "digits-to-upside-down-normalised",
        "digits-without-3-classes-to-classes-left-out-raw",
        "digits-without-3-classes-to-classes-left-out-normalised",
    ]
    rows = json.loads((results.folder / "metrics.json").read_text())["rows"]
    assert len(rows) == sum(len(c.rows(default_score(cases))) for c in cases)
    assert all(0 <= value <= 1 for row in rows for value in row["values"])
    assert all(row["interval"][0] <= row["mean"] <= row["interval"][1] for row in rows)
    assert len(stages) == num_stages(study)


def test_more_seeds_reuse_the_finished_ones(finished):
    _, results, _ = finished
    stages = []
    study = without_figures(OODStudy(replace(FAST, seeds=2)))
    more = run(study, results.folder, progress=stages.append)
    insides = "digits", "digits without 3 classes"
    parts = [f"{inside}, {how}" for inside in insides for how in ("raw", "normalised")]
    assert [s for s in stages if "finished earlier" in s] == [
        f"{p}: finished earlier" for p in parts
    ]
    assert [s for s in stages if s.startswith("seed")] == [f"seed 1: {p}" for p in parts]
    first = {row.what: row.values[0] for row in results.rows}
    shared = [row for row in more.rows if row.what in first]
    assert len(shared) > 20
    for row in shared:
        assert row.values[0] == first[row.what]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ensemble": 0}, "ensemble must be at least 1"),
        ({"bootstrap": 0}, "bootstrap must be at least 1"),
        ({"other": "digits"}, "choose two sets"),
        ({"left_out": -1}, "left_out must not be negative"),
        ({"shrinkage": 2.0}, "shrinkage must be from 0 to 1"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(FAST, **change)


def test_sets_that_cannot_be_compared_are_refused_before_any_training(sets, tmp_path, monkeypatch):
    larger = sets.test._replace(x=torch.zeros(len(sets.test.x), 1, 28, 28))
    both = {"digits": sets, "mnist": sets._replace(name="mnist", test=larger)}
    monkeypatch.setattr(ood, "image_sets", lambda name, _data: both[name])
    with pytest.raises(ValueError, match="one shape"):
        run(OODStudy(replace(FAST, other="mnist")), tmp_path)
    assert not list(tmp_path.iterdir())


def test_classes_are_left_out_of_everything_but_the_outliers(sets, tmp_path):
    kept, left = without_classes(sets, 3)
    assert kept.class_names == sets.class_names[:7]
    assert all(set(images.y.tolist()) == set(range(7)) for images in kept[2:])
    assert len(kept.test.x) + len(left) == len(sets.test.x)
    with pytest.raises(ValueError, match="leave two classes or more of the 10"):
        run(OODStudy(replace(FAST, left_out=9)), tmp_path)


def test_the_combined_score_is_fishers_of_its_two(detectors, sets):
    found = detectors.scores(sets.test.x)
    rank = [
        (1 + (detectors.reference[name][:, None] >= found[name]).sum(0)) / (1 + len(reference))
        for name, reference in detectors.reference.items()
    ]
    torch.testing.assert_close(found[COMBINED], -(rank[0].log() + rank[1].log()).double())
    assert set(detectors.reference) == {COSINE, RELATIVE}
