"""Images without class labels and with few: what EM finds, and what a classifier learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro.data.images import ImageSets
from gbi_pyro.metrics.scores import accuracy
from studies.unsupervised_images.codes import (
    CodeAutoencoder,
    CodeClassifier,
    CodeEncoder,
    Whitening,
    make_encoder,
    train_autoencoder,
    train_classifier,
    whitening,
)
from studies.unsupervised_images.config import DiscoverImagesConfig, image_generator
from studies.unsupervised_images.tasks import (
    CHUNK,
    CLUSTERED,
    Tasks,
    clamp_labels,
    cluster_accuracy,
    find_tasks,
    name_tasks,
    train,
)
from gbi_pyro.learning.labels import UNKNOWN
from gbi_pyro.models.affine_head import PCABasis, pca_basis

ONE, SEVERAL = "EM, one task a class", "EM, several tasks a class"
NAMED = "EM, several tasks a class, named and not clamped"
CLASSIFIER = "classifier of the same encoder"
PRETRAINED = "classifier, its encoder begun from the autoencoder"
WAYS = (ONE, SEVERAL, NAMED, CLASSIFIER, PRETRAINED)
KMEANS, KMEANS_CODES = "k-means on principal components", "k-means on the codes"


class Coded(NamedTuple):
    """The codes of all images by the autoencoder of one seed, whitened.

    Attributes:
        network: the autoencoder.
        white: what whitened them.
        train, validation, test: ``(N, d)``.
    """

    network: CodeAutoencoder
    white: Whitening
    train: Tensor
    validation: Tensor
    test: Tensor

    @classmethod
    def of(cls, network: CodeAutoencoder, sets: ImageSets) -> Coded:
        """Compress all images of all sets."""
        parts = [encode(network.encoder, s.x) for s in (sets.train, sets.validation, sets.test)]
        white = whitening(parts[0])
        return cls(network, white, *(white(part) for part in parts))


@torch.no_grad()
def encode(encoder: CodeEncoder, x: Tensor) -> Tensor:
    """Return the codes of many images, ``(N, d)``."""
    return torch.cat([encoder(part) for part in x.split(CHUNK)])


def basis_of(config: DiscoverImagesConfig, sets: ImageSets) -> PCABasis:
    """Return the principal directions of the training images."""
    return pca_basis(sets.train.x, config.pixels)


def code_images(
    config: DiscoverImagesConfig, sets: ImageSets, basis: PCABasis, seed: int, folder: Path
) -> Coded:
    """Train the autoencoder of one seed, or take it up, and compress all images."""
    checkpoint = folder / f"codes-{seed}.safetensors"
    return Coded.of(train_autoencoder(config, basis, sets.train.x, seed, checkpoint), sets)


def hide_classes(y: Tensor, fraction: float, seed: int) -> Tensor:
    """Return classes of which a fraction is known, drawn at random, -1 for the others.

    >>> hide_classes(torch.tensor([4, 4, 4, 4]), 0.5, seed=0).sum()
    tensor(6)
    """
    few = torch.randperm(len(y), generator=image_generator(seed, "labels"))
    known = few[: round(fraction * len(y))]
    labels = torch.full_like(y, UNKNOWN)
    labels[known] = y[known]
    return labels


def measure_unlabelled(
    config: DiscoverImagesConfig, sets: ImageSets, basis: PCABasis, coded: Coded, seed: int
) -> dict[str, Any]:
    """Find one task a class without labels, and more of them.

    Returns:
        ``tasks`` and ``several``, the mixtures; ``evidence``, of each restart, nats an image;
        ``scores``: cluster accuracy on test by method; ``validation``: that of the mixture there;
        ``collapsed`` and ``words``, the collapse report.
    """
    K = sets.num_classes
    tasks, evidence = find_tasks(config, coded.train, K, seed, config.restarts)
    several, _ = find_tasks(config, coded.train, K * config.tasks_per_class, seed, restarts=1)
    report = tasks.collapse(coded.train)
    some, test = (
        (x - basis.mean).flatten(1) @ basis.directions
        for x in (sets.train.x[:CLUSTERED], sets.test.x)
    )
    return {
        "tasks": tasks.as_lists(),
        "several": several.as_lists(),
        "evidence": evidence,
        "validation": cluster_accuracy(tasks.probs(coded.validation), sets.validation.y),
        "scores": {
            ONE: cluster_accuracy(tasks.probs(coded.test), sets.test.y),
            KMEANS: k_means_accuracy(some, test, sets.test.y, K, seed),
            KMEANS_CODES: k_means_accuracy(
                coded.train[:CLUSTERED], coded.test, sets.test.y, K, seed
            ),
        },
        "collapsed": report.collapsed,
        "words": str(report),
    }


def k_means_accuracy(fit: Tensor, test: Tensor, labels: Tensor, num_tasks: int, seed: int) -> float:
    """Return the cluster accuracy of scikit-learn's k-means, the best of five by its objective."""
    from sklearn.cluster import KMeans

    clusters = KMeans(num_tasks, n_init=5, random_state=seed).fit(fit.numpy())
    ids = torch.from_numpy(clusters.predict(test.numpy())).long()
    return cluster_accuracy(torch.nn.functional.one_hot(ids, num_tasks).double(), labels)


def measure_labelled(
    config: DiscoverImagesConfig,
    sets: ImageSets,
    basis: PCABasis,
    coded: Coded,
    seed: int,
    fraction: float,
    unlabelled: dict[str, Any],
) -> dict[str, Any]:
    """Name the tasks that were found by some labels, clamp these, and go on; train classifiers.

    Returns:
        ``test`` and ``validation``: accuracy by way; ``known``: how many labels; ``tasks`` and
        ``several``: the mixtures after clamping.
    """
    labels = hide_classes(sets.train.y, fraction, seed)
    found: dict[str, Any] = {"known": int((labels != UNKNOWN).sum())}
    answers: dict[str, tuple[Tensor, Tensor]] = {}
    for way, key in ((ONE, "tasks"), (SEVERAL, "several")):
        tasks = Tasks.from_lists(unlabelled[key])
        names = name_tasks(tasks.probs(coded.train), labels, sets.num_classes)
        if way == SEVERAL:
            answers[NAMED] = class_probs(tasks, names, coded)
        tasks, names = name_and_clamp(config, tasks, coded.train, labels, sets.num_classes, seed)
        answers[way] = class_probs(tasks, names, coded)
        found[key] = tasks.as_lists()
    known = labels != UNKNOWN
    x, y = sets.train.x[known], labels[known]
    for way in (CLASSIFIER, PRETRAINED):
        draw = image_generator(seed, "classifier")
        encoder = make_encoder(config, basis, draw)
        if way == PRETRAINED:
            encoder.load_state_dict(coded.network.encoder.state_dict())
        classifier = CodeClassifier(
            encoder, sets.num_classes, noise=config.classifier_noise, generator=draw
        )
        train_classifier(config, classifier, x, y, seed)
        answers[way] = classifier(sets.validation.x).exp(), classifier(sets.test.x).exp()
    truth = {"validation": sets.validation.y, "test": sets.test.y}
    for i, (name, classes) in enumerate(truth.items()):
        found[name] = {way: accuracy(a[i].log(), classes) for way, a in answers.items()}
    return found


def name_and_clamp(
    config: DiscoverImagesConfig,
    tasks: Tasks,
    codes: Tensor,
    labels: Tensor,
    num_classes: int,
    seed: int,
) -> tuple[Tasks, Tensor]:
    """Name tasks by labelled images, clamp these to them, go on with EM, and name them again.

    Args:
        config: the study.
        tasks: found without labels; trained in place.
        codes: of the training images, ``(N, d)``.
        labels: classes, -1 where unknown, ``(N,)``.
        num_classes: C.
        seed: of the batches.

    Returns:
        The mixture, and p(class | task), ``(K, C)``.
    """
    q = tasks.probs(codes)
    clamped = clamp_labels(q, labels, name_tasks(q, labels, num_classes))
    draw = image_generator(seed, "clusters")
    tasks = train(config, tasks, codes, clamped, config.label_steps, draw)
    return tasks, name_tasks(tasks.probs(codes), labels, num_classes)


def class_probs(tasks: Tasks, names: Tensor, coded: Coded) -> tuple[Tensor, Tensor]:
    """Return the probabilities of classes, ``(N, C)``, of validation and test images."""
    return tasks.probs(coded.validation) @ names, tasks.probs(coded.test) @ names
