"""The study of unsupervised learning on images: classes found without labels, or with few."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from gbi_pyro import plots
from gbi_pyro.data.images import ImageSets
from gbi_pyro.export.inference_data import to_inference_data
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.learning.labels import match_labels
from gbi_pyro.models.affine_head import pca_basis
from studies.core.image_data import image_sets, sets_checksum
from studies.core.protocol import Found, Part, Report, Study
from studies.core.table import Row
from studies.unsupervised_images.codes import CodeAutoencoder, code_images
from studies.unsupervised_images.config import FEW, FRACTIONS, UnsupervisedImagesConfig
from studies.unsupervised_images.features import FeaturesSeed, measure_features
from studies.unsupervised_images.figures import draw_accuracy
from studies.unsupervised_images.measure import (
    make_examples,
    measure_labelled,
    measure_unlabelled,
)
from studies.unsupervised_images.record import UnsupervisedImagesSeed
from studies.unsupervised_images.table import features_rows, labelled_rows, unlabelled_rows

FEATURES = "features"
FEATURES_ALONE = frozenset({"filters", "dimensions", "prototypes", "feature_steps"})
CODES_ALONE = frozenset(
    {
        *("pixels", "hidden", "code", "epochs", "batch", "rate", "restarts", "tasks_per_class"),
        *("em_steps", "label_steps", "em_batch", "em_rate", "prior_rate", "classifier_steps"),
        *("classifier_batch", "classifier_rate", "classifier_noise"),
    }
)


class UnsupervisedImagesStudy(Study[UnsupervisedImagesConfig]):
    """Classes of images found by EM on the codes of an autoencoder, with few labels or none."""

    name = "unsupervised_images"
    title = "Unsupervised learning of the classes of images, and learning with few labels"
    config_type = UnsupervisedImagesConfig
    uses_device = True
    trains_together = True
    reads_files = True

    @property
    def sets(self) -> ImageSets:
        """The images; those of the test set are scored, and serve nothing else."""
        return image_sets(self.config.dataset, self.data)

    def inputs(self) -> dict[str, Any]:
        """Return the checksum of the images."""
        return {"images": sets_checksum(self.config.dataset, self.data)}

    def parts(self) -> list[Part[Any]]:
        """Return the features, which no network makes, and the codes."""
        return [
            Part.of_seed(
                FEATURES,
                FeaturesSeed,
                partial(measure_features, self.config, self.sets),
                unused=CODES_ALONE,
            ),
            Part.of_seed(self.name, UnsupervisedImagesSeed, self.measure, unused=FEATURES_ALONE),
        ]

    def measure(self, seed: int, report: Report) -> UnsupervisedImagesSeed:
        """Train the autoencoder of one seed, then learn its codes without labels and with few."""
        config, sets = self.config, self.sets
        coded = code_images(config, sets, seed, self.checkpoints, report)
        report("no labels")
        found = measure_unlabelled(config, sets, coded, seed)
        labelled = {}
        for fraction in FRACTIONS:
            report(f"{fraction:.0%} of the labels")
            labelled[fraction] = measure_labelled(config, sets, coded, seed, fraction, found)
        weights = coded.network.state_dict()
        return UnsupervisedImagesSeed(weights, found, labelled, make_examples(sets, coded, found))

    def table(self, found: Found) -> list[Row]:
        """Return every quantity; targets are those of MNIST."""
        records: list[UnsupervisedImagesSeed] = list(found[self.name])
        name = self.config.dataset
        rows = [*unlabelled_rows([r.unlabelled for r in records], name)]
        for fraction in FRACTIONS:
            rows += labelled_rows(fraction, [r.labelled[fraction] for r in records], name)
        return [*rows, *features_rows(found[FEATURES], name)]

    def figures(self, found: Found) -> Iterator[tuple[str, Figure]]:
        """Draw accuracy by fraction of the labels, and the tasks found without any."""
        records, names = found[self.name], self.sets.class_names
        yield "images-by-labels", draw_accuracy(records, names)
        yield "tasks", plots.image_grid(records[0].examples.images, names)

    def posterior(self, found: Found) -> Any:
        """Return the posterior without labels of some test images, and the exact one."""
        config, sets = self.config, self.sets
        first: UnsupervisedImagesSeed = found[self.name][0]
        tasks, codes = first.unlabelled.tasks.tasks(), first.examples.codes
        y = sets.test.y[: len(codes)]
        one_step = tasks.trainer(config, OneStepGradient()).infer(codes)
        names = match_labels(one_step.probs(), y)
        return to_inference_data(
            one_step,
            observed={"c": codes},
            dims={"c": ["image", "code"]},
            labels={"z": names[y]},
            exact=tasks.trainer(config, Enumeration(check=False)).infer(codes),
            task_names={"z": [sets.class_names[int(k)] for k in names[:-1].argsort()]},
            attributes={"study": self.name, "dataset": sets.name, "seed": config.first_seed},
        )

    def networks(self, found: Found) -> Mapping[str, nn.Module]:
        """Return the networks of the first seed."""
        config = self.config
        first: UnsupervisedImagesSeed = found[self.name][0]
        basis = pca_basis(self.sets.train.x, config.pixels)
        autoencoder = CodeAutoencoder(config, basis, config.first_seed)
        autoencoder.load_state_dict(first.autoencoder)
        return {
            "autoencoder": autoencoder,
            "no_labels": first.unlabelled.tasks.tasks().mixture,
            "few_labels": first.labelled[FEW].several.tasks().mixture,
        }
