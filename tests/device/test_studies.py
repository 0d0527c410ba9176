"""Studies train and infer on a device what they do on the CPU."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from study_runs import without_figures

from studies.core.device import check_device, running_on
from studies.core.image_data import image_sets
from studies.core.runner import run
from studies.images.config import ImagesConfig
from studies.images.study import ImagesStudy
from studies.language.config import LanguageConfig
from studies.language.identify import identify
from studies.language.stream import read_stream
from studies.language.texts import bigram_texts
from studies.language.training import HEAD, PLAIN, train
from studies.ood.config import OODConfig
from studies.ood.detectors import train_detectors
from studies.toy.config import ToyConfig
from studies.toy.training import train_network
from studies.unsupervised_images.codes import code_images
from studies.unsupervised_images.config import UnsupervisedImagesConfig

TOLERANCE = 1e-3  # of numbers after training, which amplifies rounding errors


def both(device, compute):
    """Compute something on the CPU and on the device."""
    here = compute()
    with running_on(check_device(str(device))):
        there = compute()
    return here, there


def test_the_image_study_runs_whole(device, tmp_path):
    study = without_figures(ImagesStudy(ImagesConfig(seeds=1, epochs=1).fast()))
    found = {d: run(study, tmp_path / str(d), device=str(d)) for d in ("cpu", device)}
    about = json.loads((tmp_path / str(device) / "config.json").read_text())
    assert about["device"].startswith(str(device))
    for a, b in zip(found["cpu"].rows, found[device].rows, strict=True):
        np.testing.assert_allclose(a.values, b.values, rtol=0.1, atol=0.05, err_msg=a.what)


@pytest.mark.parametrize("kind", [HEAD, PLAIN])
def test_language_networks_agree(kind, device):
    config = LanguageConfig().fast().for_bigrams()
    texts = bigram_texts(config.updates_all)

    def compute():
        network, curve = train(config, texts, kind, 0, None)
        if kind == PLAIN:
            return curve.train, curve.test
        accuracy = identify(config, texts, network).accuracy
        probs = read_stream(config, texts, network).probs
        return (
            curve.train,
            curve.test,
            [v for by_length in accuracy.values() for v in by_length.values()],
            *probs.values(),
        )

    for a, b in zip(*both(device, compute), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05)


def test_detectors_agree(device):
    config = replace(OODConfig().fast(), epochs=1, ensemble=2, affine_hidden=32)
    sets = image_sets("digits", None)

    def compute():
        detectors = train_detectors(config, sets, 0, None, lambda _what: None)
        return detectors.scores(sets.test.x[:50])

    here, there = both(device, compute)
    for name, scores in here.items():
        np.testing.assert_allclose(scores, there[name], rtol=0.05, atol=0.05, err_msg=name)


def test_sequence_networks_agree(device):
    config = replace(ToyConfig().fast(), updates=10)
    here, there = both(device, lambda: train_network(config, 0, config.stream()))
    np.testing.assert_allclose(here.curve.train_mse, there.curve.train_mse, rtol=TOLERANCE)
    np.testing.assert_allclose(
        here.curve.validation_mse, there.curve.validation_mse, rtol=TOLERANCE
    )
    assert all(p.device == torch.device("cpu") for p in there.network.parameters())


def test_codes_agree(device):
    config = replace(UnsupervisedImagesConfig().fast(), epochs=1)
    sets = image_sets("digits", None)
    here, there = both(device, lambda: code_images(config, sets, 0, None))
    np.testing.assert_allclose(here.test, there.test, atol=0.05)
