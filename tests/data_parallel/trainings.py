"""Short trainings of studies, the same in one process and in several."""

import contextlib
from dataclasses import replace

from studies.core.image_data import image_sets
from studies.core.image_networks import paper_network
from studies.core.image_networks import train as train_images
from studies.core.processes import wait_for_all
from studies.images.config import ImagesConfig
from studies.language.config import LanguageConfig
from studies.language.texts import bigram_texts
from studies.language.training import HEAD, train

IMAGES = replace(ImagesConfig(seeds=1).fast(), batch=257)  # shares of 128 and 129 images
TEXTS = replace(
    LanguageConfig().fast().for_bigrams(),
    batch=5,
    updates=20,
    updates_all=20,
    updates_without_one=20,
    every=5,
)


class StopError(Exception):
    """Raised within a training."""


def images(folder, *, stop=None):
    """Return the weights of an image network after two epochs."""
    sets = image_sets("digits", None)
    network = paper_network(sets, 0, bottleneck=4, hidden=32)  # without noise inside

    def report(what):
        if stop and f"epoch {stop} " in what:
            raise StopError

    train_images(network, "paper", 0, sets.train, IMAGES, folder / "checkpoints", report)
    return flat(network)


def resumed(folder):
    """Return the same after an interruption."""
    with contextlib.suppress(StopError):
        images(folder / "resumed", stop=1)
    wait_for_all()  # until the checkpoint is there
    return images(folder / "resumed")


def language(folder):
    """Return the weights of a language network, of 2 and 3 texts a share, and its curve."""
    network, curve = train(TEXTS, bigram_texts(10), HEAD, 0, folder / "texts")
    return flat(network) + curve.train.tolist() + curve.test.tolist()


def flat(network):
    """Return all weights as one list."""
    return [v for p in network.parameters() for v in p.flatten().tolist()]


TRAININGS = {"images": images, "resumed": resumed, "language": language}
