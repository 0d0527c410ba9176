"""How well each score detects images of other sets, and altered images of the same one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gbi_pyro.data.images import Images, ImageSets, normalise_each
from gbi_pyro.metrics.auroc import AUROC, auroc
from studies.ood.detectors import BASELINE, Detectors, Scores


def prepare_images(x: Tensor, normalised: bool) -> Tensor:
    """Return images as they are, or every one normalised on its own."""
    return normalise_each(x) if normalised else x


def prepare_sets(sets: ImageSets, normalised: bool) -> ImageSets:
    """Return sets whose images are prepared, with the same labels."""
    train, validation, test = (
        Images(prepare_images(images.x, normalised), images.y)
        for images in (sets.train, sets.validation, sets.test)
    )
    return sets._replace(train=train, validation=validation, test=test)


def without_classes(sets: ImageSets, count: int) -> tuple[ImageSets, Tensor]:
    """Return the sets without their last classes, and the test images of those.

    Args:
        sets: images of more classes.
        count: how many to leave out.

    Raises:
        ValueError: if fewer than two classes are left.
    """
    kept = sets.num_classes - count
    if kept < 2:
        raise ValueError(
            f"left_out should leave two classes or more of the {sets.num_classes} of {sets.name}; "
            f"got {count}"
        )
    train, validation, test = (
        Images(images.x[images.y < kept], images.y[images.y < kept])
        for images in (sets.train, sets.validation, sets.test)
    )
    left = sets.test.x[sets.test.y >= kept]
    names = sets.class_names[:kept]
    return sets._replace(class_names=names, train=train, validation=validation, test=test), left


def detect(inside: Scores, outside: Scores, bootstrap: int) -> dict[str, AUROC]:
    """Return how well each score separates images in and out of distribution."""
    return {
        name: auroc(
            inside[name],
            outside[name],
            generator=torch.Generator().manual_seed(0),
            bootstrap=bootstrap,
            name=name,
        )
        for name in inside
    }


def alterations(x: Tensor, seed: int) -> dict[str, Tensor]:
    """Alter images in five ways, none of which the study tests on.

    The default score is chosen on validation images altered so; see ``default_score``. No image of
    another set is used for it.

    Args:
        x: square images, ``(N, C, H, H)``, two or more.
        seed: of the partners and of the order of pixels.

    Returns:
        By kind, as many images as were given.
    """
    draw = torch.Generator().manual_seed(seed)
    shift = int(torch.randint(1, len(x), (), generator=draw))
    other = x.roll(shift, 0)  # no image is its own partner
    middle = x.shape[-1] // 2
    pixels = torch.randperm(x[0].numel(), generator=draw)
    return {
        "a quarter turn": x.rot90(1, (-2, -1)),
        "average of two": (x + other) / 2,
        "halves of two": torch.cat([x[..., :middle], other[..., middle:]], -1),
        "quarters exchanged": x.roll((middle, middle), (-2, -1)),
        "pixels in another order": x.flatten(1)[:, pixels].view_as(x),
    }


def detect_altered(detectors: Detectors, x: Tensor, normalised: bool) -> dict[str, float]:
    """Return the AUROC of each score on altered images, the mean over the ways to alter them.

    The baseline is left out: it uses no network, and is not offered as the default score.

    Args:
        detectors: the networks.
        x: validation images, prepared as the networks take them.
        normalised: whether that is one by one, which altered images are then too.
    """
    inside = detectors.scores(x)
    found: dict[str, list[float]] = {name: [] for name in inside if name != BASELINE}
    for altered in alterations(x, 0).values():
        outside = detectors.scores(prepare_images(altered, normalised))
        aurocs = detect(inside, outside, bootstrap=1)
        for name, values in found.items():
            values.append(aurocs[name].value)
    return {name: float(np.mean(values)) for name, values in found.items()}
