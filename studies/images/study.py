"""The image study: networks given their class, and every way to infer the class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from gbi_pyro.data.images import ImageSets
from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from studies.core.cache import Cache
from studies.core.image_data import image_sets, sets_checksum
from studies.core.image_networks import AFFINE, PAPER, train
from studies.core.protocol import Found, Part, Report, Study
from studies.core.table import Row
from studies.images.bottleneck import Widths, measure_use, sweep_widths
from studies.images.config import ImagesConfig
from studies.images.examples import make_examples, most_named
from studies.images.features import FeaturesSeed, measure_features
from studies.images.figures import draw_answers, draw_generation
from studies.images.measure import answer, score
from studies.images.methods import ONE_STEP, PAPER_EXACT, PAPER_ONE_STEP, methods
from studies.images.networks import ImageNetworks, build_networks
from studies.images.record import ImagesSeed
from studies.images.table import images_table

FEATURES = "features"
FEATURES_ALONE = frozenset({"filters", "pool", "mirror", "prototypes"})
NETWORKS_ALONE = ImagesConfig.method_fields - FEATURES_ALONE - {"chunk"}


class ImagesStudy(Study[ImagesConfig]):
    """The class of images, inferred in one pass, in every other way, and exactly."""

    name = "images"
    title = "The class of images, inferred in one pass and in every other way"
    config_type = ImagesConfig
    reads_files = True
    uses_device = True
    trains_together = True

    @property
    def sets(self) -> ImageSets:
        """The images, with one split for all seeds."""
        return image_sets(self.config.dataset, self.data)

    def prepare(self, cache: Cache, report: Report) -> None:
        """Train the paper's network at several widths, if asked for, with the first seed alone."""
        self.widths: Widths = {}
        if self.config.sweep:
            self.widths = cache.get(
                f"widths, seed {self.config.first_seed}",
                {"config": replace(self.config, seeds=1), **self.inputs()},
                Widths,
                lambda: sweep_widths(self.config, self.sets, self.checkpoints, report),
            )

    def inputs(self) -> dict[str, Any]:
        """Return the checksum of the images."""
        return {"images": sets_checksum(self.config.dataset, self.data)}

    def parts(self) -> list[Part[Any]]:
        """Return the features, which take no network, and the networks."""
        return [
            Part.of_seed(
                FEATURES,
                FeaturesSeed,
                partial(measure_features, self.config, self.sets),
                unused=NETWORKS_ALONE,
            ),
            Part.of_seed(self.name, ImagesSeed, self.measure, unused=FEATURES_ALONE),
        ]

    def measure(self, seed: int, report: Report) -> ImagesSeed:
        """Train every network of one seed, and infer the test images' classes in every way."""
        config, sets = self.config, self.sets
        networks = build_networks(config, sets, seed)
        for name, network in networks.by_name().items():
            train(network, name, seed, sets.train, config, self.checkpoints, report)
        report("inferring the class in every way")
        todo = methods(config, networks)
        answers = answer(config, sets, todo)
        return ImagesSeed(
            methods=score(sets, todo, answers),
            use={
                PAPER: measure_use(networks.paper, sets),
                AFFINE: measure_use(networks.affine, sets),
            },
            named={n: most_named(answers[n].test) for n in (PAPER_ONE_STEP, PAPER_EXACT)},
            examples=make_examples(sets, networks.affine.cpu(), answers[ONE_STEP].test),
            weights={name: n.state_dict() for name, n in networks.by_name().items()},
        )

    def table(self, found: Found) -> list[Row]:
        """Return every quantity of every method, with its target."""
        return images_table(found[self.name], found[FEATURES], self.widths, self.config.dataset)

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw answers and generated images of the first seed."""
        first: ImagesSeed = found[self.name][0]
        yield "answers", draw_answers(first.examples)
        yield "generation", draw_generation(first.examples)

    def posterior(self, found: Found) -> Any:
        """Return one step and the exact posterior of test images, with the first seed's network."""
        config, sets = self.config, self.sets
        affine, images = self._first(found).affine, sets.test.x[: config.chunk]
        return to_inference_data(
            OneStepGradient()(affine, images),
            labels={"z": sets.test.y[: config.chunk]},
            exact=Enumeration(check=False)(affine, images),
            task_names={"z": sets.class_names},
            attributes={"study": self.name, "dataset": sets.name, "seed": config.first_seed},
        )

    def networks(self, found: Found) -> Mapping[str, nn.Module]:
        """Return the networks of the first seed."""
        return {k.replace(" ", "_"): n for k, n in self._first(found).by_name().items()}

    def _first(self, found: Found) -> ImageNetworks:
        first: ImagesSeed = found[self.name][0]
        networks = build_networks(self.config, self.sets, self.config.first_seed)
        for name, network in networks.by_name().items():
            network.load_state_dict(first.weights[name])
            network.requires_grad_(False).eval()
        return networks
