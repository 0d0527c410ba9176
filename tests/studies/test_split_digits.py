"""Split digits: what is computed is checked against what must hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from study_runs import without_figures

from gbi_pyro import Enumeration
from gbi_pyro.data.images import Images, load_images
from studies.core.runner import run
from studies.split_digits import measure, study
from studies.split_digits.config import SplitDigitsConfig
from studies.split_digits.figures import so_far
from studies.split_digits.network import SplitNetwork
from studies.split_digits.study import SplitDigitsStudy
from studies.split_digits.table import accuracy_matrix

FAST = SplitDigitsConfig(seeds=2).fast()
RATE = FAST.rates[0]
PAIRS = torch.arange(10).reshape(5, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("split_digits")


@pytest.fixture(scope="module")
def finished(folder):
    torch.set_num_threads(1)
    return run(SplitDigitsStudy(FAST), folder)


@pytest.fixture(scope="module")
def by_network(finished):
    records = finished.found["split_digits"]
    return {n: [r.scores[RATE][n] for r in records] for n in measure.NETWORKS}


def test_every_network_has_a_share_for_every_block_and_task(by_network):
    for network, of_seeds in by_network.items():
        inferred = set(measure.INFERENCES) if network in measure.CONDITIONED else set()
        for scores in of_seeds:
            assert set(scores.accuracy) == {"given"} | inferred
            assert set(scores.task_accuracy) == inferred
            assert scores.untrained.shape == (5,)
            matrices = [*scores.accuracy.values(), *scores.task_accuracy.values()]
            assert {m.shape for m in matrices} == {(5, 5)}
            assert all(((m >= 0) & (m <= 1)).all() for m in (scores.untrained, *matrices))


def test_every_kind_starts_from_the_same_weights_and_task_input_alone_differs(by_network):
    """Untrained, "shuffled" and "given" differ in Z only, and a task's Z is a constant input."""
    untrained = {n: np.stack([s.untrained for s in by_network[n]]) for n in by_network}
    np.testing.assert_array_equal(untrained[measure.CONCAT], untrained[measure.MIXED])
    assert (untrained[measure.CONCAT] != untrained[measure.WITHOUT]).any()
    draw = torch.Generator().manual_seed(0)
    images = Images(torch.zeros(50, 1, 8, 8), torch.arange(50) % 10)
    given, without, shuffled = (
        measure.split(images, PAIRS, n, draw)
        for n in (measure.CONCAT, measure.WITHOUT, measure.SHUFFLED)
    )
    for other in (without, shuffled):
        assert torch.equal(other.task, given.task)
        assert torch.equal(other.y, given.y)
    assert torch.equal(given.z.argmax(-1), given.task)
    assert torch.equal(without.z, torch.full((50, 5), 0.2))
    assert torch.equal(shuffled.z.sum(0), given.z.sum(0))  # permuted, none lost


def test_shuffled_tasks_say_nothing_about_the_true_one():
    """Chi-squared of independence, at most once in 1e6."""
    draw = torch.Generator().manual_seed(1)
    images = Images(torch.zeros(5000, 1, 8, 8), torch.arange(5000) % 10)
    found = measure.split(images, PAIRS, measure.SHUFFLED, draw)
    counts = torch.zeros(5, 5).index_add_(0, found.task, found.z)
    statistic = ((counts - 200) ** 2 / 200).sum().item()
    assert statistic <= 60.3  # chi2.isf(1e-6, 16)


def test_a_pair_is_a_task_and_a_digit_its_class():
    pairs = torch.tensor([[3, 7], [0, 1], [2, 9], [8, 4], [6, 5]])
    images = Images(torch.zeros(10, 1, 8, 8), torch.arange(10))
    found = measure.split(images, pairs, measure.CONCAT, torch.Generator())
    assert torch.equal(pairs[found.task, found.y], images.y)


def test_the_head_is_shared_and_reads_the_task():
    network = SplitNetwork((8, 8), 5, generator=torch.Generator().manual_seed(0))
    x = torch.rand(7, 8, 8, generator=torch.Generator().manual_seed(1))
    under_each = network.log_classes(x)
    torch.testing.assert_close(under_each.exp().sum(-1), torch.ones(5, 7))
    for k in range(5):
        z = torch.eye(5)[k].expand(7, 5)
        torch.testing.assert_close(under_each[k], network.log_classes(x, z))


def test_the_class_is_not_seen_when_a_task_is_inferred():
    """log q(z) is that of the image alone: p(x | z) and no more."""
    network = SplitNetwork((8, 8), 5, generator=torch.Generator().manual_seed(0))
    x = torch.rand(7, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        h = network.encoder(x)
        means = network.image(network.conditioner(h, torch.eye(5).unsqueeze(1)).relu())
        squares = (x.flatten(1) - means).square().sum(-1)
        by_hand = (-0.5 * squares / network.log_sigma.exp() ** 2).log_softmax(0).mT
    found = Enumeration()(network, x)
    torch.testing.assert_close(found.logits(), by_hand, rtol=1e-4, atol=1e-4)


def test_sequence_is_what_is_forgotten():
    """After its block a task is known; at the end that holds only where blocks were mixed."""
    config = SplitDigitsConfig(seeds=1, epochs=6)
    sets = load_images("digits", seed=1000)
    without, mixed = (
        measure.measure_network(config, sets, network, 0.01, 1000).accuracy["given"]
        for network in (measure.WITHOUT, measure.MIXED)
    )
    just_learned = np.diagonal(without).mean()
    assert just_learned > 0.9
    assert without[-1].mean() < just_learned
    assert mixed[-1].mean() > without[-1].mean()


def test_rows_are_those_of_the_matrices(finished, by_network):
    rows = finished.rows
    assert len({row.what for row in rows}) == len(rows)
    assert {len(row.values) for row in rows} == {2}
    by_name = {row.what.removeprefix(f"split digits, rate {RATE:g}, "): row for row in rows}
    matrix = accuracy_matrix(by_network[measure.CONCAT], "given")
    end = by_name[f"{measure.CONCAT}: average accuracy at the end, %"]
    np.testing.assert_allclose(end.values, matrix[:, -1].mean(-1))
    plain = by_name[f"{measure.WITHOUT}: average accuracy at the end, %"]
    gap = by_name[f"{measure.CONCAT} minus {measure.WITHOUT}: average accuracy, points"]
    np.testing.assert_allclose(gap.values, np.subtract(end.values, plain.values))
    assert gap.interval.low <= gap.mean <= gap.interval.high
    just = by_name[f"{measure.CONCAT}: accuracy on the task just learned, %"]
    np.testing.assert_allclose(just.values, np.diagonal(matrix, axis1=1, axis2=2).mean(-1))


def test_the_figure_is_written(finished):
    assert [path.name for path in finished.figures] == ["digits.png"]
    assert all(path.exists() for path in finished.figures)


def test_more_seeds_measure_the_new_ones_alone(finished, folder, monkeypatch):
    measured = []

    def spy(config, sets, network, rate, seed, one=study.measure_network):
        measured.append(seed)
        return one(config, sets, network, rate, seed)

    monkeypatch.setattr(study, "measure_network", spy)
    again = run(without_figures(SplitDigitsStudy(FAST)), folder)
    assert not measured
    assert [row.as_dict() for row in again.rows] == [row.as_dict() for row in finished.rows]
    more = run(without_figures(SplitDigitsStudy(replace(FAST, seeds=3))), folder)
    assert set(measured) == {2}
    for one, other in zip(finished.rows, more.rows, strict=True):
        assert one.values == other.values[:2]


def test_validation_images_can_stand_in_for_test_images():
    config = replace(FAST, judged_on="validation")
    sets = load_images("digits", seed=0)
    on_test, on_validation = (
        measure.measure_network(c, sets, measure.WITHOUT, RATE, 0) for c in (FAST, config)
    )
    assert (on_test.untrained != on_validation.untrained).any()


def test_tasks_so_far_are_those_learned():
    r = np.array([[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.1, 0.2, 0.9]])
    np.testing.assert_allclose(so_far([r]), [[1, 0.75, 0.4]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"rates": (0.01, 0.0)}, "rates must be positive"),
        ({"dataset": "cifar100"}, "dataset must be digits, mnist or fashion"),
        ({"judged_on": "train"}, "judged_on must be test or validation"),
    ],
)
def test_a_config_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(FAST, **change)


def test_the_fast_one_keeps_what_was_asked_for():
    assert SplitDigitsConfig(seeds=1, first_seed=7).fast().all_seeds == range(7, 8)
