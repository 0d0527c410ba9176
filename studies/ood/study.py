"""The out-of-distribution study: both directions, raw and normalised, near and far."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from gbi_pyro.data.images import ImageSets, flip_vertical
from studies.core.cache import Cache
from studies.core.image_data import image_sets, sets_checksum
from studies.core.protocol import Found, Part, Report, Study
from studies.core.table import Row
from studies.ood.config import OODConfig
from studies.ood.detect import (
    detect,
    detect_altered,
    prepare_images,
    prepare_sets,
    without_classes,
)
from studies.ood.detectors import Scores, train_detectors
from studies.ood.figures import DRAWN, draw_case
from studies.ood.record import LEFT_OUT, UPSIDE_DOWN, OODSeed
from studies.ood.table import Case, default_score


class OODStudy(Study[OODConfig]):
    """Which images are out of distribution, by every score."""

    name = "ood"
    title = "Out-of-distribution detection: images of another set, and images upside down"
    config_type = OODConfig
    reads_files = True
    uses_device = True
    trains_together = True

    def prepare(self, cache: Cache, report: Report) -> None:
        """Check that one network can look at all sets.

        Raises:
            ValueError: for images of different shapes, or too few classes, before anything is
                trained.
        """
        sets = [image_sets(name, self.data) for name in self.config.datasets]
        for images in sets:
            without_classes(images, self.config.left_out)
        shapes = {s.name: tuple(s.test.x.shape[1:]) for s in sets}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"dataset and other should have images of one shape; got {shapes}: choose sets of "
                "the same size, such as mnist and fashion"
            )

    def inputs(self) -> dict[str, Any]:
        """Return the checksums of the images."""
        return {"images": {n: sets_checksum(n, self.data) for n in self.config.datasets}}

    def parts(self) -> list[Part[Any]]:
        """Return a part for every set trained on, with its images raw and normalised."""
        return [
            Part.of_seed(_part(title, n), OODSeed, partial(self._measure, title, n))
            for title in self._insides
            for n in (False, True)
        ]

    @property
    def _insides(self) -> dict[str, str]:
        """Name the images that networks are trained on, each with its set."""
        names, left_out = self.config.datasets, self.config.left_out
        without = {f"{name} without {left_out} classes": name for name in names}
        return {name: name for name in names} | (without if left_out else {})

    def _images(self, title: str, normalised: bool) -> tuple[ImageSets, dict[str, Tensor]]:
        """Return the images in distribution, and those that are not, by what they are."""
        name = self._insides[title]
        images = prepare_sets(image_sets(name, self.data), normalised)
        if title != name:
            images, left = without_classes(images, self.config.left_out)
            return images, {LEFT_OUT: left}
        others = {UPSIDE_DOWN: flip_vertical(images.test.x)}
        for other in set(self.config.datasets) - {name}:
            others[other] = prepare_images(image_sets(other, self.data).test.x, normalised)
        return images, others

    def _measure(self, title: str, normalised: bool, seed: int, report: Report) -> OODSeed:
        """Train on some images, prepared in one way, and detect all others."""
        config = self.config
        images, others = self._images(title, normalised)
        part = _part(title, normalised).replace(",", "").replace(" ", "-")
        folder = self.checkpoints and self.checkpoints / part
        detectors = train_detectors(config, images, seed, folder, report)
        report("scoring")
        inside = detectors.scores(images.test.x)
        outside = {other: detectors.scores(x) for other, x in others.items()}
        return OODSeed(
            validation=detect_altered(detectors, images.validation.x, normalised),
            aurocs={n: detect(inside, o, config.bootstrap) for n, o in outside.items()},
            inside=_drawn(inside),
            outside={other: _drawn(found) for other, found in outside.items()},
        )

    def cases(self, found: Found) -> list[Case]:
        """Return the detection problems, with what was found."""
        return [
            Case(title, other, normalised, records)
            for title in self._insides
            for normalised in (False, True)
            for records in [found[_part(title, normalised)]]
            for other in records[0].aurocs
        ]

    def table(self, found: Found) -> list[Row]:
        """Return the AUROC of every score in every case, with its target."""
        cases = self.cases(found)
        default = default_score(cases)
        return [row for case in cases for row in case.rows(default)]

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw every case, with the first seed's networks."""
        for case in self.cases(found):
            name = case.title.replace("->", "to").replace(",", "").replace(" ", "-")
            yield name, draw_case(case.records[0], case.outside)


def _part(title: str, normalised: bool) -> str:
    return f"{title}, {'normalised' if normalised else 'raw'}"


def _drawn(scores: Scores) -> dict[str, np.ndarray]:
    return {name: scores[name].numpy() for name in DRAWN}
