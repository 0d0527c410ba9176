"""Classes without labels and with few, by EM on unsupervised features of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gbi_pyro.data.images import Images, ImageSets
from gbi_pyro.metrics.scores import accuracy
from gbi_pyro.models import (
    FeatureGaussian,
    FeatureMoments,
    PatchFeatures,
    feature_em,
    pca_basis,
    responsibilities,
    split_prototypes,
)
from gbi_pyro.sites import UNKNOWN
from studies.core.logistic import fit_logistic
from studies.core.protocol import Report
from studies.unsupervised_images.config import FRACTIONS, UnsupervisedImagesConfig, generator
from studies.unsupervised_images.measure import hide_classes, k_means_accuracy
from studies.unsupervised_images.tasks import CLUSTERED, cluster_accuracy

ONE = "EM on features, one prototype a class"
SEVERAL = "EM on features, several prototypes a class"
KMEANS = "k-means on the features"
LABELS_ALONE = "Gaussians of the labelled features alone"
LOGISTIC = "logistic regression of the same features"
SMOOTHING = 1e-4
FEW_SHRINKAGE = 0.1  # of the covariance of labelled features alone
ROUNDS, STEPS = 3, 5  # how often validation is looked at, and the EM steps before each time


@dataclass(frozen=True)
class LabelledFeatures:
    """What is learned of features with a fraction of the labels.

    Attributes:
        known: how many labels.
        prototypes: of a class, chosen on validation images.
        steps: of EM, chosen on validation images.
        validation: accuracy on validation images, by method.
        test: accuracy on test images, by method.
    """

    known: int
    prototypes: int
    steps: int
    validation: dict[str, float]
    test: dict[str, float]


@dataclass(frozen=True)
class FeaturesSeed:
    """What is measured of the features of one seed.

    Attributes:
        validation: cluster accuracy without labels on validation images, by method.
        test: the same on test images.
        labelled: by fraction of the labels.
    """

    validation: dict[str, float]
    test: dict[str, float]
    labelled: dict[float, LabelledFeatures]


def measure_features(
    config: UnsupervisedImagesConfig, sets: ImageSets, seed: int, report: Report
) -> FeaturesSeed:
    """Run EM on the features of one seed, without labels and with each fraction of them.

    Args:
        config: the study.
        sets: the images.
        seed: of patches, clusters and labels.
        report: called with what is being done.
    """
    report("features of all images")
    features = reduced_features(config, sets, seed)
    report("EM on features")
    x, K = features.train.x, sets.num_classes
    found: dict[str, dict[str, float]] = {"validation": {}, "test": {}}
    start = clusters(x, K, seed)
    one, _ = feature_em(start, x, steps=config.feature_steps, shrinkage=config.ridge)
    ids = responsibilities(one, x)[0].sum(-1).argmax(-1)
    fewest = max(int(torch.bincount(ids, minlength=K).min()), 1)
    several = split(x, ids, K, min(config.prototypes[0], fewest), config, seed)
    several, _ = feature_em(several, x, steps=STEPS, shrinkage=config.ridge)
    models = {ONE: one, SEVERAL: several}
    for name in found:
        part: Images = getattr(features, name)
        for method, model in models.items():
            q = responsibilities(model, part.x)[0].sum(-1)
            found[name][method] = cluster_accuracy(q, part.y)
        found[name][KMEANS] = k_means_accuracy(x[:CLUSTERED], part.x, part.y, K, seed)
    labelled = {f: measure_fraction(config, features, seed, f) for f in FRACTIONS}
    return FeaturesSeed(found["validation"], found["test"], labelled)


def reduced_features(config: UnsupervisedImagesConfig, sets: ImageSets, seed: int) -> ImageSets:
    """Return the features of all images, in their principal directions, in place of the images."""
    draw = generator(seed, "patches")
    phi = PatchFeatures.fit(sets.train.x, config.filters, draw, pool=3, root=True)
    train = phi(sets.train.x)
    basis = pca_basis(train, min(config.dimensions, train.shape[-1]))

    def reduce(features: Tensor) -> Tensor:
        return (features - basis.mean) @ basis.directions

    return sets._replace(
        train=Images(reduce(train), sets.train.y),
        validation=Images(reduce(phi(sets.validation.x)), sets.validation.y),
        test=Images(reduce(phi(sets.test.x)), sets.test.y),
    )


def clusters(x: Tensor, num_tasks: int, seed: int) -> FeatureGaussian:
    """Return the Gaussians of k-means clusters of features ``(N, d)``."""
    from sklearn.cluster import KMeans

    found = KMeans(num_tasks, n_init=5, random_state=seed).fit(x[:CLUSTERED].numpy())
    ids = torch.from_numpy(found.predict(x.numpy())).long()
    q = one_hot(ids, num_tasks).to(x).unsqueeze(-1)
    return FeatureMoments.of(x, q).gaussian(nn.Identity(), FEW_SHRINKAGE)


def split(
    x: Tensor,
    ids: Tensor,
    num_tasks: int,
    prototypes: int,
    config: UnsupervisedImagesConfig,
    seed: int,
) -> FeatureGaussian:
    """Return Gaussians with several prototypes for each of the tasks ``(N,)`` of features."""
    draw = generator(seed, "prototypes")
    q = split_prototypes(x, ids, num_tasks, prototypes, draw)
    return FeatureMoments.of(x, q).gaussian(nn.Identity(), config.ridge)


def measure_fraction(
    config: UnsupervisedImagesConfig, features: ImageSets, seed: int, fraction: float
) -> LabelledFeatures:
    """Fit Gaussians to labelled features, and let EM go on from there with all features."""
    K, x = features.num_classes, features.train.x
    labels = hide_classes(features.train.y, fraction, seed)
    known = labels != UNKNOWN
    few = Images(x[known], labels[known])
    # A class that no label is of gets a share of every feature, for it needs a mean.
    q = (one_hot(few.y, K).to(x) + SMOOTHING).unsqueeze(-1)
    alone = FeatureMoments.of(few.x, q).gaussian(nn.Identity(), FEW_SHRINKAGE)
    classifier, _ = fit_logistic(few, features.validation, K)
    tables: dict[str, Callable[[Tensor], Tensor]] = {LABELS_ALONE: class_table(alone)}
    tables[LOGISTIC] = classifier

    def judged(model: FeatureGaussian) -> float:
        x, y = features.validation
        return accuracy(class_table(model)(x).log_softmax(-1), y)

    found = [(judged(alone), alone, 1, 0)]
    ids = responsibilities(alone, x, labels)[0].sum(-1).argmax(-1)
    for prototypes in config.prototypes:
        if int(torch.bincount(ids, minlength=K).min()) < prototypes:
            continue
        model = split(x, ids, K, prototypes, config, seed)
        found.append((judged(model), model, prototypes, 0))
        for done in range(ROUNDS):
            model, _ = feature_em(model, x, labels, steps=STEPS, shrinkage=config.ridge)
            found.append((judged(model), model, prototypes, (1 + done) * STEPS))
    _, best, prototypes, steps = max(found, key=lambda each: each[0])
    tables[SEVERAL] = class_table(best)
    scores = {
        name: {m: accuracy(t(part.x).log_softmax(-1), part.y) for m, t in tables.items()}
        for name, part in (("validation", features.validation), ("test", features.test))
    }
    return LabelledFeatures(int(known.sum()), prototypes, steps, **scores)


def class_table(model: FeatureGaussian) -> Callable[[Tensor], Tensor]:
    """Return log p(phi, z = k), ``(N, K)``, as a function of features ``(N, d)``."""

    @torch.no_grad()
    def table(x: Tensor) -> Tensor:
        return model.log_likelihoods(x) + model.log_prior

    return table
