"""Image networks: training that can be interrupted, and answers compared with the exact ones."""

import math

import pytest
import torch

from gbi_pyro.data.images import Images, load_images
from gbi_pyro.logjoint import Passes
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.metrics.recalibration import temper
from studies.core.divergences import Answers, mean_kl, tempered_kl
from studies.core.image_data import checksum, image_sets, sets_checksum
from studies.core.image_networks import (
    AFFINE,
    CLASSIFIER,
    PAPER,
    ImageConfig,
    affine_network,
    classifier_network,
    paper_network,
    train,
)

CONFIG = ImageConfig(seeds=1, epochs=3)
SIZES = {
    PAPER: (paper_network, {"bottleneck": 4, "hidden": 16}),
    AFFINE: (affine_network, {"codes": 8, "latent": 8, "hidden": 16}),
    CLASSIFIER: (classifier_network, {"latent": 8, "hidden": 16}),
}


@pytest.fixture(scope="module")
def sets():
    return load_images("digits")


def build(name, sets, seed=0):
    make, sizes = SIZES[name]
    return make(sets, seed, **sizes)


def trained(network, name, images, folder, *, config=CONFIG, stop=None):
    def report(what):
        reports.append(what)
        if stop is not None and f"epoch {stop} " in what:
            raise KeyboardInterrupt

    reports = []
    try:
        train(network, name, 0, images, config, folder, report)
    except KeyboardInterrupt:
        assert stop is not None
    return network.state_dict(), reports


@pytest.mark.parametrize("name", SIZES)
def test_an_interrupted_training_ends_with_the_same_weights(name, sets, tmp_path):
    few = Images(sets.train.x[:300], sets.train.y[:300])
    whole, _ = trained(build(name, sets), name, few, None)
    trained(build(name, sets), name, few, tmp_path, stop=1)
    resumed, reports = trained(build(name, sets), name, few, tmp_path)
    assert "epoch 1 of 3" in reports[0]
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_a_checkpoint_is_of_its_images_and_settings_whatever_the_number_of_seeds(sets, tmp_path):
    few = Images(sets.train.x[:300], sets.train.y[:300])
    trained(build(CLASSIFIER, sets), CLASSIFIER, few, tmp_path)

    def epochs_done(images, config):
        reports = trained(
            build(CLASSIFIER, sets), CLASSIFIER, images, tmp_path, config=config, stop=0
        )[1]
        return int(reports[0].split("epoch ")[1][0])

    assert epochs_done(few, ImageConfig(seeds=9, first_seed=3, epochs=3)) == 3
    assert epochs_done(few, ImageConfig(seeds=1, epochs=3, rate=0.1)) == 0
    assert epochs_done(Images(1 - few.x, few.y), CONFIG) == 0


def test_a_trained_network_is_frozen_in_eval_mode(sets):
    few = Images(sets.train.x[:128], sets.train.y[:128])
    network = build(AFFINE, sets)
    trained(network, AFFINE, few, None)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_a_seed_decides_the_first_weights(name, sets):
    first, again, other = (build(name, sets, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_set_has_one_checksum_whatever_its_split(sets):
    assert image_sets("digits", None).train.x.shape == sets.train.x.shape
    everything = (*sets.train, *sets.validation, *sets.test)
    assert sets_checksum("digits", None) == checksum(*everything)
    assert checksum(sets.train.x) != checksum(1 - sets.train.x)


def test_tempering_undoes_a_wrong_temperature(generator):
    """An estimate that is the exact posterior at another temperature has no distance to it."""
    validation, test = (
        (3 * torch.randn(200, 4, generator=generator)).log_softmax(-1) for _ in range(2)
    )
    exact = Answers(validation, test, Passes())
    hotter = Answers(temper(validation, 2.0), temper(test, 2.0), Passes())
    assert tempered_kl(exact, hotter, 1.5) < 1e-10
    assert mean_kl(exact.test, exact.test) == 0
    expected = kl(test, hotter.test).mean().item()
    assert math.isclose(mean_kl(exact.test, hotter.test), expected, rel_tol=1e-5)
