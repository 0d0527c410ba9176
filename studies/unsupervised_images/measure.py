"""Images without class labels and with few: what EM finds, and what a classifier learns."""

from __future__ import annotations

import torch
from torch import Tensor

from gbi_pyro.data.images import ImageSets
from gbi_pyro.metrics.scores import accuracy
from gbi_pyro.sites import UNKNOWN
from studies.unsupervised_images.codes import (
    CodeClassifier,
    Coded,
    CodeEncoder,
    train_classifier,
)
from studies.unsupervised_images.config import UnsupervisedImagesConfig, generator
from studies.unsupervised_images.record import (
    CLASSIFIER,
    KMEANS,
    KMEANS_CODES,
    MATCHED,
    ONE,
    PRETRAINED,
    SEVERAL,
    Examples,
    Labelled,
    Unlabelled,
)
from studies.unsupervised_images.tasks import (
    CLUSTERED,
    Tasks,
    clamp_labels,
    classes_of_tasks,
    cluster_accuracy,
    find_tasks,
    match_classes,
    train,
)

EXAMPLES = 5  # images shown under each task
KEPT = 1000  # test images whose posterior is written


def measure_unlabelled(
    config: UnsupervisedImagesConfig, sets: ImageSets, coded: Coded, seed: int
) -> Unlabelled:
    """Find one task a class without labels, and several."""
    K, y = sets.num_classes, sets.test.y
    tasks, evidence = find_tasks(config, coded.train, K, seed, config.restarts)
    several, _ = find_tasks(config, coded.train, K * config.tasks_per_class, seed, restarts=1)
    some, test = (
        (x - coded.basis.mean).flatten(1) @ coded.basis.directions
        for x in (sets.train.x[:CLUSTERED], sets.test.x)
    )
    return Unlabelled(
        tasks=tasks.state,
        several=several.state,
        evidence=evidence,
        accuracy={
            ONE: cluster_accuracy(tasks.probs(coded.test), y),
            KMEANS: k_means_accuracy(some, test, y, K, seed),
            KMEANS_CODES: k_means_accuracy(coded.train[:CLUSTERED], coded.test, y, K, seed),
        },
        validation=cluster_accuracy(tasks.probs(coded.validation), sets.validation.y),
        collapsed=tasks.collapse(coded.train).collapsed,
    )


def k_means_accuracy(fit: Tensor, test: Tensor, labels: Tensor, num_tasks: int, seed: int) -> float:
    """Return the cluster accuracy of scikit-learn's k-means, the best of five by its objective."""
    from sklearn.cluster import KMeans

    clusters = KMeans(num_tasks, n_init=5, random_state=seed).fit(fit.numpy())
    ids = torch.from_numpy(clusters.predict(test.numpy())).long()
    return cluster_accuracy(torch.nn.functional.one_hot(ids, num_tasks).double(), labels)


def hide_classes(y: Tensor, fraction: float, seed: int) -> Tensor:
    """Return classes of which a fraction is known, drawn at random, -1 for the others.

    >>> hide_classes(torch.tensor([4, 4, 4, 4]), 0.5, seed=0).sum()
    tensor(6)
    """
    few = torch.randperm(len(y), generator=generator(seed, "labels"))
    known = few[: round(fraction * len(y))]
    labels = torch.full_like(y, UNKNOWN)
    labels[known] = y[known]
    return labels


def measure_labelled(
    config: UnsupervisedImagesConfig,
    sets: ImageSets,
    coded: Coded,
    seed: int,
    fraction: float,
    found: Unlabelled,
) -> Labelled:
    """Match the tasks found with some labels, clamp these, and go on; train classifiers."""
    C, labels = sets.num_classes, hide_classes(sets.train.y, fraction, seed)
    mixtures = {ONE: found.tasks.tasks(), SEVERAL: found.several.tasks()}
    classes = classes_of_tasks(mixtures[SEVERAL].probs(coded.train), labels, C)
    probs = {MATCHED: class_probs(mixtures[SEVERAL], classes, coded)}
    for method, tasks in mixtures.items():
        mixtures[method], classes = match_and_clamp(config, tasks, coded.train, labels, C, seed)
        probs[method] = class_probs(mixtures[method], classes, coded)
    known = labels != UNKNOWN
    for method in (CLASSIFIER, PRETRAINED):
        draw = generator(seed, "classifier")
        encoder = CodeEncoder(config, coded.basis, draw)
        if method == PRETRAINED:
            encoder.load_state_dict(coded.network.encoder.state_dict())
        classifier = CodeClassifier(config, encoder, C, draw)
        train_classifier(config, classifier, sets.train.x[known], labels[known], seed)
        probs[method] = classifier(sets.validation.x).exp(), classifier(sets.test.x).exp()
    return Labelled(
        known=int(known.sum()),
        validation={m: accuracy(p.log(), sets.validation.y) for m, (p, _) in probs.items()},
        test={m: accuracy(p.log(), sets.test.y) for m, (_, p) in probs.items()},
        several=mixtures[SEVERAL].state,
    )


def match_and_clamp(
    config: UnsupervisedImagesConfig,
    tasks: Tasks,
    codes: Tensor,
    labels: Tensor,
    num_classes: int,
    seed: int,
) -> tuple[Tasks, Tensor]:
    """Match tasks with labelled images, clamp these to them, go on with EM, and match them again.

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
    clamped = clamp_labels(q, labels, classes_of_tasks(q, labels, num_classes))
    draw = generator(seed, "clusters")
    tasks = train(config, tasks, codes, clamped, config.label_steps, draw)
    return tasks, classes_of_tasks(tasks.probs(codes), labels, num_classes)


def class_probs(tasks: Tasks, classes: Tensor, coded: Coded) -> tuple[Tensor, Tensor]:
    """Return the probabilities of classes, ``(N, C)``, of validation and test images."""
    return tasks.probs(coded.validation) @ classes, tasks.probs(coded.test) @ classes


def make_examples(sets: ImageSets, coded: Coded, found: Unlabelled) -> Examples:
    """Decode the mean of each task found without labels, and collect test images of it."""
    tasks, K = found.tasks.tasks(), sets.num_classes
    q = tasks.probs(coded.test)
    order = match_classes(q, sets.test.y)
    with torch.no_grad():
        means = coded.network.image(coded.white.inverse(tasks.mixture.means))[order]
    images = torch.zeros(1 + EXAMPLES, *means.shape)
    images[0] = means
    for column, k in enumerate(order):
        members = sets.test.x[q.argmax(-1) == k][:EXAMPLES]
        images[1 : 1 + len(members), column] = members
    inferred = order.argsort()[q.argmax(-1)]
    counts = torch.bincount(sets.test.y * K + inferred, minlength=K * K).reshape(K, K)
    return Examples(images.numpy(), counts.numpy(), coded.test[:KEPT])
