"""Rivals and split digits: what is computed is checked against what must hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from gbi_pyro import Enumeration, OneStepGradient
from gbi_pyro.data.images import Images, load_images
from gbi_pyro.metrics.agreement import kl
from studies.ablations import digits, rivals
from studies.split_digits.network import SplitNetwork
from studies.split_digits.rows import digit_rows, figure_digits, so_far
from studies.split_digits.measure import DigitsConfig
from studies.baselines.rows import rival_rows
from studies.baselines.measure import RivalsConfig

RIVALS = RivalsConfig(seeds=2).fast()
DIGITS = DigitsConfig(seeds=2).fast()
RATE = digits.rate_name(DIGITS.rates[0])


@pytest.fixture(scope="module")
def every_rate():
    torch.set_num_threads(1)
    return digits.measure(DIGITS)


@pytest.fixture(scope="module")
def split_digits(every_rate):
    return every_rate[RATE]


@pytest.fixture(scope="module")
def compared():
    torch.set_num_threads(1)
    return rivals.measure(RIVALS)


@pytest.fixture(scope="module")
def sets():
    return load_images("digits", seed=0)


# Split digits


def test_the_split_digits_are_plain_numbers_for_every_seed_block_and_task(split_digits):
    found = json.loads(json.dumps(split_digits))
    for network in digits.NETWORKS:
        ways = {"given", "untrained"}
        if network in digits.TOLD:
            ways |= {"one step", "enumeration", "task, one step", "task, enumeration"}
        assert set(found[network]) == ways
        for way in ways:
            shape = (2, 5) if way == "untrained" else (2, 5, 5)
            values = np.array(found[network][way])
            assert values.shape == shape
            assert ((values >= 0) & (values <= 1)).all()


def test_every_kind_starts_from_the_same_weights_and_task_input_alone_differs(split_digits):
    """Untrained, "shuffled" and "given" differ in Z only, and a task's Z is a constant input."""
    untrained = {n: split_digits[n]["untrained"] for n in digits.NETWORKS}
    assert untrained[digits.CONCAT] == untrained[digits.MIXED]
    assert untrained[digits.CONCAT] != untrained[digits.WITHOUT]
    draw = torch.Generator().manual_seed(0)
    pairs = torch.arange(10).reshape(5, 2)
    images = Images(torch.zeros(50, 1, 8, 8), torch.arange(50) % 10)
    given, without, shuffled = (
        digits.split(images, pairs, n, draw)
        for n in (digits.CONCAT, digits.WITHOUT, digits.SHUFFLED)
    )
    for other in (without, shuffled):
        assert torch.equal(other.task, given.task)
        assert torch.equal(other.y, given.y)
    assert torch.equal(given.z.argmax(-1), given.task)
    assert torch.equal(without.z, torch.full((50, 5), 0.2))
    assert torch.equal(shuffled.z.sum(0), given.z.sum(0))  # dealt out, none lost


def test_shuffled_tasks_say_nothing_about_the_true_one():
    """Chi-squared of independence, at most once in 1e6."""
    draw = torch.Generator().manual_seed(1)
    images = Images(torch.zeros(5000, 1, 8, 8), torch.arange(5000) % 10)
    found = digits.split(images, torch.arange(10).reshape(5, 2), digits.SHUFFLED, draw)
    counts = torch.zeros(5, 5).index_add_(0, found.task, found.z)
    statistic = ((counts - 200) ** 2 / 200).sum().item()
    assert statistic <= 60.3  # chi2.isf(1e-6, 16)


def test_a_pair_is_a_task_and_a_digit_its_class():
    pairs = torch.tensor([[3, 7], [0, 1], [2, 9], [8, 4], [6, 5]])
    images = Images(torch.zeros(10, 1, 8, 8), torch.arange(10))
    found = digits.split(images, pairs, digits.CONCAT, torch.Generator())
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
        means = network.image(network.told(h, torch.eye(5).unsqueeze(1)).relu())
        squares = (x.flatten(1) - means).square().sum(-1)
        by_hand = (-0.5 * squares / network.log_sigma.exp() ** 2).log_softmax(0).mT
    found = Enumeration()(network, x)
    torch.testing.assert_close(found.logits(), by_hand, rtol=1e-4, atol=1e-4)


def test_sequence_is_what_is_forgotten():
    """Learned at all, a task is known right after its block; mixed, all are known at the end."""
    config = DigitsConfig(seeds=1, epochs=6)
    sets = load_images("digits", seed=1000)
    found = {
        network: np.array(digits.measure_one(config, sets, network, 0.01, 1000)["given"])
        for network in (digits.WITHOUT, digits.MIXED)
    }
    just_learned = np.diagonal(found[digits.WITHOUT]).mean()
    assert just_learned > 0.9
    assert found[digits.WITHOUT][-1].mean() < just_learned
    assert found[digits.MIXED][-1].mean() > found[digits.WITHOUT][-1].mean()


def test_the_rate_is_chosen_by_what_was_just_learned(split_digits):
    known = [
        np.diagonal(np.array(split_digits[n]["given"]), axis1=1, axis2=2)
        for n in digits.NETWORKS
        if n != digits.MIXED
    ]
    assert digits.learned(split_digits) == pytest.approx(np.mean(known))


def test_rows_and_figure_of_the_split_digits(every_rate, split_digits, tmp_path):
    rows = digit_rows(every_rate)
    assert len({row.what for row in rows}) == len(rows)
    assert {len(row.values) for row in rows} == {2}
    by_name = {row.what.removeprefix(f"split digits, {RATE}, "): row for row in rows}
    matrix = 100 * np.array(split_digits[digits.CONCAT]["given"])
    end = by_name[f"{digits.CONCAT}: average accuracy at the end, %"]
    np.testing.assert_allclose(end.values, matrix[:, -1].mean(-1))
    plain = by_name[f"{digits.WITHOUT}: average accuracy at the end, %"]
    gap = by_name[f"{digits.CONCAT} minus {digits.WITHOUT}: average accuracy, points"]
    np.testing.assert_allclose(gap.values, np.subtract(end.values, plain.values))
    assert "95 % interval" in gap.note
    assert figure_digits(tmp_path, every_rate).exists()


def test_tasks_so_far_are_those_learned():
    r = np.array([[[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.1, 0.2, 0.9]]])
    np.testing.assert_allclose(so_far(r), [[100, 75, 40]])


# Rivals


def test_the_rivals_are_plain_numbers_for_every_seed(compared):
    found = json.loads(json.dumps(compared))
    for kind in rivals.KINDS:
        for method in rivals.METHODS:
            values = found[kind][method]
            assert {len(v) for v in values.values()} == {2}
            assert all(0 <= share <= 1 for share in values[rivals.ACCURACY])
            assert all(v >= 0 for v in values[rivals.KL])
        for what in (rivals.KL, rivals.KL_TEMPERED):
            # What is exact is no distance away: rounding of the fitted temperature is left.
            assert max(found[kind][rivals.EXACT][what]) <= 1e-6


def test_each_method_spends_what_it_says(compared):
    """Forward, backward, check: K forwards for enumeration, one pass for every rival."""
    for kind in rivals.KINDS:
        spent = {
            m: tuple(compared[kind][m][sort][0] for sort in rivals.PASSES) for m in rivals.METHODS
        }
        assert spent[rivals.ONE_STEP] == spent[rivals.CALIBRATED] == (1, 1, 0)
        assert spent[rivals.EXACT] == (10, 0, 0)
        for rival in (rivals.CENTROID, rivals.FORWARD, rivals.REVERSE):
            assert spent[rival] == (1, 0, 1)


def test_the_recogniser_by_labels_is_one_for_all_networks(compared):
    first, second = (compared[kind][rivals.FORWARD] for kind in rivals.KINDS)
    assert first[rivals.ACCURACY] == second[rivals.ACCURACY]
    assert first[rivals.LOG_SCORE] == pytest.approx(second[rivals.LOG_SCORE])


def test_the_trained_network_is_frozen_while_its_rivals_learn(sets):
    model = rivals.train_model(RIVALS, sets, rivals.AFFINE, 0)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    forward = rivals.train_recogniser(RIVALS, sets, model, 0, reverse=False)
    rivals.measure_one(RIVALS, sets, model, forward, 0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_nothing_is_chosen_on_test_images(sets):
    """Another test set changes the scores, and no layer, calibration or recogniser."""
    model = rivals.train_model(RIVALS, sets, rivals.PAPER, 0)
    other = sets._replace(test=Images(sets.test.x[:50].flip(-1), sets.test.y[:50]))
    assert rivals.best_centroids(model, other)[0] == rivals.best_centroids(model, sets)[0]
    first, second = (
        rivals.train_recogniser(RIVALS, each, model, 0, reverse=True) for each in (sets, other)
    )
    x = sets.validation.x
    assert torch.equal(first(model, x).logits(), second(model, x).logits())


def test_some_rows_of_a_posterior_are_the_posterior_of_some_images(sets):
    model = rivals.train_model(RIVALS, sets, rivals.AFFINE, 0)
    x, index = sets.validation.x, torch.tensor([4, 9, 2])
    part = rivals.rows(Enumeration()(model, x), index)
    torch.testing.assert_close(part.logits(), Enumeration()(model, x[index]).logits())
    hot = rivals.rows(OneStepGradient()(model, x), index, T=1e6)
    assert float(kl(torch.full((3, 10), 0.1).log(), hot.logits()).max()) < 1e-6


def test_validation_can_stand_in_for_test_to_choose_by():
    config = replace(RIVALS, seeds=1)
    on_test, on_validation = (
        rivals.measure(replace(config, judged_on=name))[rivals.AFFINE][rivals.EXACT]
        for name in ("test", "validation")
    )
    assert on_test[rivals.LOG_SCORE] != on_validation[rivals.LOG_SCORE]
    # 300 images: every share is a number of them.
    assert (300 * on_validation[rivals.ACCURACY][0]) == pytest.approx(
        round(300 * on_validation[rivals.ACCURACY][0])
    )


def test_rows_of_the_rivals(compared):
    rows = rival_rows(compared)
    assert len({row.what for row in rows}) == len(rows) == 2 * 6 * 4
    assert {len(row.values) for row in rows} == {2}
    (row,) = [r for r in rows if r.what == "affine head: one step: accuracy, %"]
    expected = [100 * v for v in compared[rivals.AFFINE][rivals.ONE_STEP][rivals.ACCURACY]]
    np.testing.assert_allclose(row.values, expected)
    assert row.note == "1 forward, 1 backward"


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (DIGITS, {"seeds": 0}, "seeds must be at least 1"),
        (DIGITS, {"rates": (0.01, 0.0)}, "rates must be positive"),
        (DIGITS, {"dataset": "cifar100"}, "dataset must be digits, mnist or fashion"),
        (DIGITS, {"judged_on": "train"}, "judged_on must be test or validation"),
        (RIVALS, {"batch": 0}, "batch must be at least 1"),
        (RIVALS, {"rate": -1.0}, "rate must be positive"),
        (RIVALS, {"hot": 0.5}, "hot must be at least 1"),
        (RIVALS, {"judged_on": "train"}, "judged_on must be test or validation"),
    ],
)
def test_a_config_out_of_range_is_refused(config, change, message):
    with pytest.raises(ValueError, match=message):
        replace(config, **change)


def test_the_fast_ones_keep_what_was_asked_for():
    assert DigitsConfig(seeds=1, first_seed=7).fast().all_seeds == range(7, 8)
    assert RivalsConfig(seeds=1, first_seed=7).fast().all_seeds == range(7, 8)
