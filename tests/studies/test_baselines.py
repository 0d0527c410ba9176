"""Baselines of one pass: what is computed is checked against what must hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from study_runs import without_figures

from gbi_pyro import Enumeration, OneStepGradient
from gbi_pyro.data.images import Images, load_images
from gbi_pyro.metrics.agreement import kl
from studies.baselines.config import BaselinesConfig
from studies.baselines.measure import (
    CALIBRATED,
    CENTROID,
    EXACT,
    FORWARD,
    METHODS,
    ONE_STEP,
    REVERSE,
    best_centroids,
    compare,
)
from studies.baselines.study import NETWORKS, BaselinesStudy
from studies.baselines.training import rows, train_model, train_recogniser
from studies.core.image_networks import AFFINE, PAPER
from studies.core.runner import run

FAST = BaselinesConfig(seeds=2).fast()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    return run(BaselinesStudy(FAST), tmp_path_factory.mktemp("baselines"))


@pytest.fixture(scope="module")
def compared(finished):
    """The methods on each network, seed by seed."""
    return [record.networks for record in finished.found["baselines"]]


@pytest.fixture(scope="module")
def sets():
    return load_images("digits", seed=0)


def test_every_method_is_scored_on_every_network(compared):
    for networks in compared:
        assert tuple(networks) == NETWORKS
        for found in networks.values():
            assert set(found.scores) == set(METHODS)
            assert found.layer in ("hidden", "latent")
            for scores in found.scores.values():
                assert 0 <= scores.accuracy <= 1
                assert scores.kl >= 0
            # What is exact is no distance away: rounding of the fitted temperature is left.
            assert max(found.scores[EXACT].kl, found.scores[EXACT].tempered_kl) <= 1e-6


def test_each_method_counts_its_passes(compared):
    """Forward, backward, check: K forwards for enumeration, one pass for every baseline.

    Enumeration tries several tasks in a run, and checks twice that the model takes them so.
    """
    for found in compared[0].values():
        cost = {method: tuple(scores.passes) for method, scores in found.scores.items()}
        assert cost[ONE_STEP] == cost[CALIBRATED] == (1, 1, 0)
        assert cost[EXACT] == (10, 0, 2)
        for baseline in (CENTROID, FORWARD, REVERSE):
            assert cost[baseline] == (1, 0, 1)


def test_the_recogniser_by_labels_is_one_for_all_networks(compared):
    for networks in compared:
        first, second = (networks[name].scores[FORWARD] for name in NETWORKS)
        assert first.accuracy == second.accuracy
        assert first.log_score == pytest.approx(second.log_score)


def test_the_trained_network_is_frozen_while_its_baselines_learn(sets):
    model = train_model(FAST, sets, AFFINE, 0)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    forward = train_recogniser(FAST, sets, model, 0, reverse=False)
    compare(FAST, sets, model, forward, 0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_nothing_is_chosen_on_test_images(sets):
    """Another test set changes the scores, and no layer, calibration or recogniser."""
    model = train_model(FAST, sets, PAPER, 0)
    other = sets._replace(test=Images(sets.test.x[:50].flip(-1), sets.test.y[:50]))
    assert best_centroids(model, other)[0] == best_centroids(model, sets)[0]
    first, second = (train_recogniser(FAST, each, model, 0, reverse=True) for each in (sets, other))
    x = sets.validation.x
    assert torch.equal(first(model, x).logits(), second(model, x).logits())


def test_some_rows_of_a_posterior_are_the_posterior_of_some_images(sets):
    model = train_model(FAST, sets, AFFINE, 0)
    x, index = sets.validation.x, torch.tensor([4, 9, 2])
    part = rows(Enumeration()(model, x), index)
    torch.testing.assert_close(part.logits(), Enumeration()(model, x[index]).logits())
    hot = rows(OneStepGradient()(model, x), index, T=1e6)
    assert float(kl(torch.full((3, 10), 0.1).log(), hot.logits()).max()) < 1e-6


def test_validation_can_stand_in_for_test_to_choose_by(compared):
    study = BaselinesStudy(replace(FAST, judged_on="validation"))
    on_validation = study.measure(0, lambda _what: None).networks[AFFINE].scores[EXACT]
    assert compared[0][AFFINE].scores[EXACT].log_score != on_validation.log_score
    # 300 images: every share is a number of them.
    right = 300 * on_validation.accuracy
    assert right == pytest.approx(round(right))


def test_rows_and_figure(finished, compared):
    table = finished.rows
    assert len({row.what for row in table}) == len(table) == 2 * 6 * 4
    assert {len(row.values) for row in table} == {2}
    (row,) = [r for r in table if r.what == "affine head: one step: accuracy, %"]
    expected = [100 * networks[AFFINE].scores[ONE_STEP].accuracy for networks in compared]
    np.testing.assert_allclose(row.values, expected)
    assert row.note == "1 forward, 1 backward"
    assert [path.stem for path in finished.figures] == ["baselines"]


def test_more_seeds_reuse_the_finished_ones(finished):
    stages = []
    study = without_figures(BaselinesStudy(replace(FAST, seeds=3)))
    more = run(study, finished.folder, progress=stages.append)
    assert stages[1:4] == [*["baselines: finished earlier"] * 2, "seed 2: baselines"]
    for before, after in zip(finished.rows, more.rows, strict=True):
        assert after.values[:2] == before.values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"rate": -1.0}, "rate must be positive"),
        ({"hot": 0.5}, "hot must be at least 1"),
        ({"judged_on": "train"}, "judged_on must be test or validation"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(FAST, **change)


def test_the_fast_study_keeps_what_was_asked_for():
    assert BaselinesConfig(seeds=1, first_seed=7).fast().all_seeds == range(7, 8)
