"""Images without labels and with few, on tiny data: what must hold whatever is learned."""

import json
from dataclasses import replace

import arviz as az
import numpy as np
import pytest
import torch
from study_runs import check_posterior_file, without_figures

from gbi_pyro import Enumeration, GradientEM, OneStepGradient
from gbi_pyro.data.images import load_images
from gbi_pyro.inference.task_prior import TaskPrior
from gbi_pyro.learning.weights import clamped_loss
from gbi_pyro.models.affine_head import pca_basis
from gbi_pyro.relax import clamp_tasks
from studies.core.runner import num_stages, run
from studies.unsupervised_images import record
from studies.unsupervised_images.code_mixture import (
    CodeMixture,
    gaussian_table,
    mixture_of_clusters,
)
from studies.unsupervised_images.codes import CodeEncoder, train_autoencoder, whitening
from studies.unsupervised_images.config import FRACTIONS, UnsupervisedImagesConfig, generator
from studies.unsupervised_images.features import (
    LABELS_ALONE,
    ROUNDS,
    STEPS,
    measure_features,
    reduced_features,
)
from studies.unsupervised_images.features import SEVERAL as FEATURES
from studies.unsupervised_images.measure import hide_classes, match_and_clamp
from studies.unsupervised_images.record import Labelled, Unlabelled
from studies.unsupervised_images.study import UnsupervisedImagesStudy
from studies.unsupervised_images.table import labelled_rows, unlabelled_rows
from studies.unsupervised_images.tasks import (
    Tasks,
    clamp_labels,
    classes_of_tasks,
    cluster_accuracy,
    find_tasks,
    match_classes,
    train,
)
from studies.unsupervised_images.validation import compare, without_test

F64 = torch.float64
FAST = UnsupervisedImagesConfig(dataset="digits", seeds=2).fast()


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_mixture(num_tasks: int = 3, size: int = 2, seed: int = 0) -> CodeMixture:
    draw = draws(seed)
    means = 2 * torch.randn(num_tasks, size, generator=draw, dtype=F64)
    root = torch.randn(num_tasks, size, size, generator=draw, dtype=F64)
    return CodeMixture(means, root @ root.mT + 0.5 * torch.eye(size, dtype=F64))


def blobs(per_task: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clusters twenty deviations apart, so that none can be taken for another."""
    centres = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    z = torch.arange(3).repeat(per_task)
    return centres[z] + torch.randn(len(z), 2, generator=draws()), z


def blob_tasks() -> Tasks:
    codes, z = blobs()
    prior = TaskPrior.uniform(3, learn=True, pseudo_count=1.0)
    return Tasks(mixture_of_clusters(codes, z, 3, ridge=0.1), prior)


@pytest.fixture(scope="module")
def sets():
    return load_images("digits")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run through everything, too short to show anything."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unsupervised-images")
    stages: list[str] = []
    return run(UnsupervisedImagesStudy(FAST), folder, progress=stages.append), folder, stages


def test_the_table_is_the_density_of_torchs_own_gaussians():
    model = random_mixture()
    x = torch.randn(7, 2, generator=draws(1), dtype=F64)
    precision = model.factors @ model.factors.mT
    for k in range(3):
        own = torch.distributions.MultivariateNormal(model.means[k], precision_matrix=precision[k])
        table = gaussian_table(x, model.means, model.factors)[:, k]
        torch.testing.assert_close(table, own.log_prob(x), rtol=1e-10, atol=1e-10)


def test_clusters_give_their_own_means_and_covariances():
    codes, z = blobs()
    model = mixture_of_clusters(codes.double(), z, 3, ridge=0.0)
    covariance = torch.linalg.inv(model.factors @ model.factors.mT)
    for k in range(3):
        own = codes[z == k].double()
        torch.testing.assert_close(model.means[k].data, own.mean(0), rtol=0, atol=1e-9)
        torch.testing.assert_close(covariance[k], own.mT.cov(correction=0), rtol=0, atol=1e-6)


def test_a_cluster_without_codes_is_an_error():
    with pytest.raises(ValueError, match=r"clusters \[1\] of 2 without any code"):
        mixture_of_clusters(torch.zeros(3, 1), torch.tensor([0, 0, 0]), 2, ridge=0.1)


def test_one_gradient_step_is_exact():
    model, x = random_mixture(), torch.randn(9, 2, generator=draws(1), dtype=F64)
    exact = Enumeration()(model, x).logits()
    torch.testing.assert_close(OneStepGradient()(model, x).logits(), exact, rtol=0, atol=1e-10)


def test_the_relaxed_weight_update_is_the_expected_one():
    x = torch.randn(9, 2, generator=draws(1), dtype=F64)
    after = []
    for m_step in ("relaxed", "expected"):
        model = random_mixture()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        GradientEM(model, OneStepGradient(), optimiser, m_step=m_step).step(x)
        after.append(torch.cat([p.flatten() for p in model.parameters()]))
    torch.testing.assert_close(after[0], after[1], rtol=0, atol=1e-12)


def test_with_all_labels_clamped_a_step_is_the_supervised_one():
    x, z = torch.randn(9, 2, generator=draws(1), dtype=F64), torch.arange(9) % 3
    em_model, supervised = random_mixture(), random_mixture()
    optimiser = torch.optim.SGD(em_model.parameters(), lr=0.1)
    em = GradientEM(em_model, OneStepGradient(), optimiser, m_step="relaxed")
    em.step(x, labels=z)
    one_hot = torch.nn.functional.one_hot(z, 3).to(F64)
    clamped_loss(clamp_tasks(supervised, {"z": one_hot}), x).backward()
    with torch.no_grad():
        for p in supervised.parameters():
            p -= 0.1 * p.grad
    for one, other in zip(em_model.parameters(), supervised.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_posterior_by_the_library_is_that_of_the_table():
    codes, _ = blobs()
    tasks = blob_tasks()
    mixed = codes / 3  # where tasks are less sure
    by_em = tasks.trainer(FAST).infer(mixed).probs()
    torch.testing.assert_close(by_em, tasks.probs(mixed), rtol=0, atol=1e-4)


def test_clusters_far_apart_are_found_and_the_best_restart_is_kept():
    codes, z = blobs()
    config = replace(FAST, em_steps=30, ridge=0.1)
    tasks, evidence = find_tasks(config, codes, 3, seed=0, restarts=4)
    assert tasks.log_evidence(codes) == max(evidence)
    assert len(evidence) == 4
    assert cluster_accuracy(tasks.probs(codes), z) == 1.0
    assert not tasks.collapse(codes).collapsed


def test_the_order_of_clusters_does_not_matter():
    codes, z = blobs()
    q = blob_tasks().probs(codes / 3)
    order = torch.tensor([2, 0, 1])
    assert cluster_accuracy(q, z) == cluster_accuracy(q[:, order], z)
    sure = blob_tasks().probs(codes)
    assert torch.equal(order[match_classes(sure[:, order], z)], match_classes(sure, z))
    labels = torch.where(torch.arange(len(z)) < 20, z, -1)
    one = q @ classes_of_tasks(q, labels, 3)
    other = q[:, order] @ classes_of_tasks(q[:, order], labels, 3)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_one_label_a_task_is_enough_in_any_order():
    codes, z = blobs()
    q = blob_tasks().probs(codes)[:, [1, 2, 0]]
    labels = torch.full_like(z, -1)
    labels[:3] = z[:3]
    classes = classes_of_tasks(q, labels, 3)
    torch.testing.assert_close(classes.sum(-1), torch.ones(3))
    assert torch.equal((q @ classes).argmax(-1), z)
    clamped = clamp_labels(q, labels, classes)
    assert torch.equal(clamped[:3], q[:3].argmax(-1))
    assert (clamped[3:] == -1).all()


def test_a_label_is_clamped_to_a_task_of_its_own_class_even_against_the_posterior():
    classes = torch.tensor([[0.98, 0.02], [0.97, 0.03], [0.02, 0.98]])
    q = torch.tensor([[0.5, 0.3, 0.2]])
    assert clamp_labels(q, torch.tensor([0]), classes).tolist() == [0]
    assert clamp_labels(q, torch.tensor([1]), classes).tolist() == [2]


def test_more_labels_of_what_is_known_already_change_no_answer():
    codes, z = blobs()
    config = replace(FAST, label_steps=5)
    few = torch.where(torch.arange(len(z)) < 6, z, -1)
    answers = []
    for labels in (few, z):
        tasks, classes = match_and_clamp(config, blob_tasks(), codes, labels, 3, seed=0)
        answers.append((tasks.probs(codes) @ classes).argmax(-1))
    assert torch.equal(answers[0], z)
    assert torch.equal(answers[1], z)


def test_a_fraction_of_the_classes_is_known_and_the_same_for_every_way():
    y = torch.arange(1000) % 10
    labels = hide_classes(y, 0.1, seed=3)
    known = labels != -1
    assert known.sum() == 100
    assert torch.equal(labels[known], y[known])
    assert torch.equal(labels, hide_classes(y, 0.1, seed=3))
    assert not torch.equal(labels, hide_classes(y, 0.1, seed=4))
    # Few labels are among the more: what is learned from them differs by the number alone.
    fewer = hide_classes(y, 0.01, seed=3) != -1
    assert (known | ~fewer).all()


def test_whitening_and_back():
    codes = torch.randn(200, 3, generator=draws(), dtype=F64) @ torch.randn(
        3, 3, generator=draws(1), dtype=F64
    )
    white = whitening(codes)
    torch.testing.assert_close(
        white(codes).mT.cov(correction=0), torch.eye(3, dtype=F64), rtol=0, atol=1e-10
    )
    torch.testing.assert_close(white.inverse(white(codes)), codes, rtol=0, atol=1e-10)


def test_a_linear_map_of_the_codes_changes_no_posterior():
    codes, z = (t.double() if t.is_floating_point() else t for t in blobs())
    moved = codes @ torch.tensor([[2.0, 1.0], [0.0, 0.5]], dtype=F64) + 3.0
    prior = TaskPrior.uniform(3)
    one, other = (Tasks(mixture_of_clusters(c, z, 3, ridge=0.0), prior) for c in (codes, moved))
    torch.testing.assert_close(one.probs(codes), other.probs(moved), rtol=0, atol=1e-8)


def test_a_state_holds_all_of_a_mixture():
    codes, _ = blobs()
    tasks = blob_tasks()
    copy = tasks.state.tasks()
    assert torch.equal(tasks.probs(codes), copy.probs(codes))
    with torch.no_grad():
        copy.mixture.means += 1.0  # which leaves the first one as it is
    assert not torch.equal(tasks.probs(codes), copy.probs(codes))


def test_the_evidence_does_not_fall_when_trained():
    codes, _ = blobs()
    tasks = blob_tasks()
    with torch.no_grad():
        tasks.mixture.means += 1.0
    before = tasks.log_evidence(codes)
    unknown = torch.full((len(codes),), -1)
    after = train(replace(FAST, em_rate=0.05), tasks, codes, unknown, 40, draws())
    assert after.log_evidence(codes) > before


def test_an_autoencoder_that_was_interrupted_ends_the_same(sets, tmp_path):
    basis = pca_basis(sets.train.x, FAST.pixels)
    x = sets.train.x[:300]
    whole = train_autoencoder(FAST, basis, x, 0, tmp_path / "whole")
    calls: list[str] = []

    def broken(what: str) -> None:
        calls.append(what)
        if "epoch 1" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(FAST, basis, x, 0, tmp_path / "broken", broken)
    of_more_seeds = replace(FAST, seeds=5)
    resumed = train_autoencoder(of_more_seeds, basis, x, 0, tmp_path / "broken", calls.append)
    assert calls == [f"autoencoder, epoch {i} of 2" for i in (0, 1, 1, 2)]
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_both_classifiers_have_the_encoder_of_the_autoencoder(sets, tmp_path):
    basis = pca_basis(sets.train.x, FAST.pixels)
    network = train_autoencoder(FAST, basis, sets.train.x[:300], 0, tmp_path / "codes")
    encoder = CodeEncoder(FAST, basis, generator(0, "classifier"))
    shapes = [{n: p.shape for n, p in e.named_parameters()} for e in (encoder, network.encoder)]
    assert shapes[0] == shapes[1]
    same = network.encoder.features(sets.test.x)
    assert torch.equal(encoder.features(sets.test.x), same)


def test_every_file_is_written_and_every_row_has_a_value_for_each_seed(finished):
    results, folder, stages = finished
    names = {p.name for p in folder.iterdir() if p.is_file()}
    files = {"config.json", "metrics.json", "table.md", "posterior.nc"}
    assert names == files | {"weights.safetensors", "weights.json", "run.json"}
    assert all(path.exists() for path in results.figures)
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert len(rows) == len(results.rows)
    assert {len(row["values"]) for row in rows} == {FAST.seeds}
    assert {row.claim for row in results.rows} == {"D8", "D9"}
    assert not results.targets  # they are for MNIST
    assert len(stages) == len(set(stages)) == num_stages(UnsupervisedImagesStudy(FAST))


def test_the_posterior_lies_beside_the_exact_one(finished):
    _, folder, _ = finished
    data = az.from_netcdf(folder / "posterior.nc")
    probs, exact = data["task_probs"]["z"], data["exact_task_probs"]["z"]
    assert probs.dims == exact.dims == ("image", "z_task")
    np.testing.assert_allclose(probs, exact, atol=1e-4)
    assert sorted(probs["z_task"].values.tolist()) == list("0123456789")


def test_the_posterior_comes_back_as_it_was_written(finished):
    check_posterior_file(UnsupervisedImagesStudy(FAST), finished[0])


def test_a_second_run_reuses_every_unit_and_more_seeds_measure_only_the_new_ones(
    finished, monkeypatch
):
    results, folder, _ = finished
    measured: list[int] = []
    parts = UnsupervisedImagesStudy.parts

    def recorded(part):
        def measure(seeds, report):
            measured.extend(seeds)
            return part.measure(seeds, report)

        return replace(part, measure=measure)

    monkeypatch.setattr(
        UnsupervisedImagesStudy, "parts", lambda study: [*map(recorded, parts(study))]
    )
    again = run(without_figures(UnsupervisedImagesStudy(FAST)), folder)
    assert measured == []
    assert again.rows == results.rows
    run(without_figures(UnsupervisedImagesStudy(replace(FAST, seeds=3))), folder)
    assert measured == [2, 2]  # the features, and the codes


def test_examples_are_images_of_their_task(finished, sets):
    results, _, _ = finished
    examples = results.found["unsupervised_images"][0].examples
    assert examples.counts.sum() == len(sets.test.x)
    np.testing.assert_array_equal(examples.counts.sum(1), np.bincount(sets.test.y))
    matched = 100 * examples.counts.trace() / len(sets.test.x)
    (row,) = [r for r in results.rows if "EM, one task a class: cluster accuracy (" in r.what]
    assert matched == pytest.approx(row.values[0])
    members = examples.images[1:]
    shown = members.any((-1, -2, -3)).sum(0)
    np.testing.assert_array_equal(shown, examples.counts.sum(0).clip(max=len(members)))


def test_targets_are_those_of_mnist_and_differences_are_paired():
    state = blob_tasks().state
    methods = dict.fromkeys(record.METHODS, 0.9)
    few = [Labelled(550, methods, methods | {record.SEVERAL: s}, state) for s in (0.94, 0.95, 0.96)]
    rows = [row for f in FRACTIONS for row in labelled_rows(f, few, "mnist")]
    (row,) = [row for row in rows if row.target is not None]
    assert "1% labels (550)" in row.what
    np.testing.assert_allclose(row.values, (4.0, 5.0, 6.0))
    assert row.verdict == "reached"
    accuracy = dict.fromkeys((record.ONE, record.KMEANS, record.KMEANS_CODES), 0.61)
    one = Unlabelled(state, state, [-1.0, -2.0], accuracy, 0.6, collapsed=False)
    (row,) = [row for row in unlabelled_rows([one], "mnist") if row.target is not None]
    assert (row.values, row.verdict) == ((61.0,), "not reached")
    assert not [row for row in unlabelled_rows([one], "digits") if row.target is not None]


def test_what_depends_on_the_data_set_is_chosen_by_it_where_it_is_not_given():
    of = {name: UnsupervisedImagesConfig(dataset=name) for name in ("digits", "mnist")}
    assert (of["digits"].pixels, of["mnist"].pixels) == (32, 64)
    given = UnsupervisedImagesConfig(dataset="digits", pixels=20)
    assert (given.pixels, given.epochs) == (20, 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"pixels": -1}, "pixels must be at least 1, got -1"),
        ({"em_steps": 0}, "em_steps must be at least 1, got 0"),
        ({"code": 65}, "code must be between 2 and pixels = 64"),
    ],
)
def test_a_configuration_that_does_not_fit_is_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        UnsupervisedImagesConfig(**options)


def test_generators_of_different_roles_and_seeds_differ():
    roles = ("autoencoder", "clusters", "labels", "classifier")
    seeds = {generator(s, role).initial_seed() for s in range(5) for role in roles}
    assert len(seeds) == 20


def test_choices_see_no_test_image(sets):
    hidden = without_test(sets)
    hidden_test = {image.numpy().tobytes() for image in sets.test.x}
    seen = torch.cat([hidden.train.x, hidden.validation.x, hidden.test.x])
    assert not hidden_test & {image.numpy().tobytes() for image in seen}
    scores = compare(FAST, hidden)
    assert list(scores) == [0.0, *FRACTIONS]
    assert all(0 <= value <= 1 for found in scores.values() for value in found.values())


# Features


def test_features_with_few_labels_are_chosen_on_validation(sets):
    found = measure_features(FAST, sets, 0, lambda _: None)
    assert set(found.test) == set(found.validation)
    for fraction, labelled in found.labelled.items():
        assert labelled.known == round(fraction * len(sets.train.y))
        # The Gaussians of the labels alone are among what is chosen from.
        alone, chosen = (labelled.validation[m] for m in (LABELS_ALONE, FEATURES))
        assert chosen >= alone
        assert 0 <= labelled.steps <= ROUNDS * STEPS
    assert found.labelled[0.1].test[FEATURES] > 0.7  # digits, eight filters


def test_features_are_reduced_by_the_training_images_alone(sets):
    reduced = reduced_features(FAST, sets, 0)
    torch.testing.assert_close(
        reduced.train.x.mean(0), torch.zeros(FAST.dimensions), rtol=0, atol=1e-5
    )
    covariance = reduced.train.x.mT.cov(correction=0)
    off = covariance - covariance.diagonal().diag()
    assert off.abs().max() < 1e-4 * covariance.diagonal().max()
    other = sets._replace(test=sets.validation, validation=sets.test)
    torch.testing.assert_close(reduced_features(FAST, other, 0).train.x, reduced.train.x)
