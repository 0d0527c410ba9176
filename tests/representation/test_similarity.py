"""Similarity of representations: oracles, invariances, and the traps with their warnings."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from torch import Tensor

from gbi_pyro.representation import similarity

MEASURES = ["cka", "procrustes", "rsa"]


def hsic_by_brute_force(x: Tensor, y: Tensor) -> float:
    """The U-statistic over all ordered quadruples of distinct samples (Song et al. 2012)."""
    k, l = x @ x.T, y @ y.T  # noqa: E741
    terms = [
        k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2 * k[i, j] * l[i, q]
        for i, j, q, r in itertools.permutations(range(len(x)), 4)
    ]
    return torch.stack(terms).mean().item()


def test_cka_is_made_of_u_statistics(generator: torch.Generator) -> None:
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(7, 2, generator=generator, dtype=torch.float64) + x[:, :2] + 5
    norm = math.sqrt(hsic_by_brute_force(x, x) * hsic_by_brute_force(y, y))
    assert similarity(x, y).value == pytest.approx(hsic_by_brute_force(x, y) / norm, abs=1e-12)


def test_cka_does_not_mind_rotation_scale_or_place(generator: torch.Generator) -> None:
    x, y = torch.randn(2, 40, 6, generator=generator, dtype=torch.float64)
    y = y + x
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    samples = torch.randperm(40, generator=generator)
    value = similarity(x, y).value
    assert 0.1 < value < 0.9
    for other in (similarity(y, x), similarity(3 * x @ rotation - 7, y)):
        assert other.value == pytest.approx(value, abs=1e-12)
    assert similarity(x[samples], y[samples]).value == pytest.approx(value, abs=1e-12)
    assert similarity(x, x @ rotation).value == pytest.approx(1, abs=1e-12)
    stretched = x * torch.linspace(1, 3, 6, dtype=torch.float64)  # it does mind this
    assert similarity(stretched, y).value != pytest.approx(value, abs=1e-3)


def test_unrelated_activity_has_none_even_with_few_samples(generator: torch.Generator) -> None:
    """Where the plain estimator is far above 0 (Murphy et al. 2024)."""
    values, plain = [], []
    for _ in range(60):
        x, y = torch.randn(2, 20, 60, generator=generator, dtype=torch.float64)
        found = similarity(x, y)
        values.append(found.value)
        assert sum("fewer samples (20) than units (60)" in w for w in found.warnings) == 2
        k, l = (torch.cov(a, correction=0) * 60 for a in (x - x.mean(0), y - y.mean(0)))  # noqa: E741
        plain.append(float((k * l).sum() / (k.norm() * l.norm())))
    many = torch.tensor(values)
    assert abs(many.mean().item()) < 4 * many.std().item() / math.sqrt(60)
    assert min(plain) > 0.5


def test_cka_is_about_the_direction_that_dominates(generator: torch.Generator) -> None:
    """Unrelated but for one shared direction, and nearly 1 all the same: said in words."""
    x, y = torch.randn(2, 100, 10, generator=generator)
    assert similarity(x, y).warnings == ()
    assert abs(similarity(x, y).value) < 0.1
    step = torch.arange(100).unsqueeze(-1) >= 50  # a task, say
    loud_x, loud_y = x + 30 * step, y + 30 * step
    found = similarity(loud_x, loud_y)
    assert found.value > 0.95
    assert len(found.warnings) == 2
    assert "of the self-similarity of x: the value is about that direction" in found.warnings[0]
    outlier = torch.zeros(100, 1).index_fill(0, torch.tensor([7]), 300.0)
    found = similarity(x, y + outlier)
    assert "of y" in found.warnings[0]


def test_nothing_to_compare_is_nan_and_said() -> None:
    x = torch.rand(6, 3)
    for still in (torch.full((6, 3), 0.7), torch.eye(6)):
        found = similarity(x, still)
        assert math.isnan(found.value)
        assert any("y does not vary, or its samples" in w for w in found.warnings)


@pytest.fixture
def pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, 60, 5, generator=generator, dtype=torch.float64)
    return x, x + y


def test_procrustes_and_rsa_are_those_of_scipy(pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    disparity = procrustes(x.numpy(), y.numpy())[2]  # 1 minus its square
    assert similarity(x, y, "procrustes").value == pytest.approx(
        math.sqrt(1 - disparity), abs=1e-12
    )
    rho = spearmanr(pdist(x.numpy()), pdist(y.numpy())).statistic
    assert similarity(x, y, "rsa").value == pytest.approx(rho, abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_rotation_scale_and_place_do_not_matter(
    measure: str, pair: tuple[Tensor, Tensor], generator: torch.Generator
) -> None:
    x, y = pair
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    value = similarity(x, y, measure).value
    assert similarity(3 * x @ turn - 7, y, measure).value == pytest.approx(value, abs=1e-12)
    assert similarity(y, x, measure).value == pytest.approx(value, abs=1e-12)
    assert similarity(x, 0.1 * x @ turn + 2, measure).value == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_influence_is_a_derivative(measure: str, pair: tuple[Tensor, Tensor]) -> None:
    """Leaving out the sample of the largest influence moves the value down the most, or nearly."""
    x, y = pair
    found = similarity(x, y, measure, leave_out=1 / 60)
    alone = []
    for i in range(60):
        kept = [j for j in range(60) if j != i]
        alone.append(similarity(x[kept], y[kept], measure).value)
    spread = max(alone) - min(alone)
    assert found.without[0] <= min(alone) + 0.15 * spread
    assert found.without[1] >= max(alone) - 0.15 * spread


N, UNITS = 1000, 64


def trap(name: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
    """The cases of Davari et al. 2023, and the means of two tasks."""
    x, other = torch.randn(2, N, UNITS, generator=generator, dtype=torch.float64)
    y, tasks = x + 0.1 * other, None
    one = torch.zeros(UNITS, dtype=torch.float64)
    one[0] = 1.0
    if name == "one sample moved":
        y = x.clone()
        y[0] += 1000 * one
    elif name == "one shared outlier":
        y = other.clone()
        x[0] += 1000 * one
        y[0] += 1000 * one
    elif name in ("a tenth moved by 20", "a tenth moved by 60"):
        y = x.clone()
        y[: N // 10] += float(name[-2:]) * one
    elif name == "one axis stretched":
        y = x * (1 + 29 * one)
    elif name == "two tasks":
        tasks = torch.arange(N) % 2
        x = x + 100 * tasks.unsqueeze(-1) * one
        y = other + 100 * tasks.unsqueeze(-1) * one
    return x, y, tasks


TRAPS = [
    "one sample moved",
    "one shared outlier",
    "a tenth moved by 20",
    "a tenth moved by 60",
    "one axis stretched",
    "two tasks",
]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("name", TRAPS)
def test_each_trap_is_warned_of(name: str, measure: str, generator: torch.Generator) -> None:
    x, y, tasks = trap(name, generator)
    assert similarity(x, y, measure, tasks).warnings


@pytest.mark.parametrize("measure", MEASURES)
def test_the_clean_case_is_not(measure: str, generator: torch.Generator) -> None:
    x, y, _ = trap("clean", generator)
    found = similarity(x, y, measure, torch.arange(N) % 2)
    assert found.warnings == ()
    assert found.value > 0.98


def test_leaving_samples_out_tells_an_outlier_from_a_direction(generator: torch.Generator) -> None:
    for name, measure in (("one sample moved", "cka"), ("one shared outlier", "procrustes")):
        found = similarity(*trap(name, generator)[:2], measure)
        assert any("few samples decide" in w for w in found.warnings)
    found = similarity(*trap("one axis stretched", generator)[:2])
    assert not any("few samples decide" in w for w in found.warnings)
    assert similarity(*trap("one sample moved", generator)[:2]).without[1] > 0.99


def test_only_the_value_within_tasks_exposes_their_means(generator: torch.Generator) -> None:
    x, y, tasks = trap("two tasks", generator)
    found = similarity(x, y, tasks=tasks)
    assert found.value > 0.95
    assert found.without[0] > 0.95
    assert found.within is not None
    assert bool((found.within.abs() < 0.1).all())
    assert any("differences between tasks decide" in w for w in found.warnings)


def test_words_hold_no_negative_zero() -> None:
    seeds = map(torch.Generator().manual_seed, range(10))
    found = [similarity(x, y, tasks=tasks) for x, y, tasks in (trap("two tasks", g) for g in seeds)]
    assert any(f.within is not None and -0.005 < f.within.mean() < 0 for f in found)
    assert not any("-0.00" in w for f in found for w in f.warnings)


def test_a_task_of_three_samples_has_no_value(pair: tuple[Tensor, Tensor]) -> None:
    tasks = torch.tensor([7] * 3 + [1] * 57)
    within = similarity(*pair, tasks=tasks).within
    assert within is not None
    assert within.isnan().tolist() == [False, True]


def test_distances_of_many_samples_are_those_of_some(generator: torch.Generator) -> None:
    x = torch.randn(6000, 2, generator=generator)
    assert similarity(x, 2 * x + 1, "rsa").value == pytest.approx(1, abs=1e-6)


def test_arrays_are_taken(pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    assert similarity(x.numpy(), y.tolist()).value == pytest.approx(
        similarity(x, y).value, abs=1e-6
    )


def test_what_cannot_be_compared_is_named() -> None:
    x = torch.zeros(5, 2)
    for args, message in (
        ((x, x, "cca"), r"one of \['cka', 'procrustes', 'rsa'\]; got 'cca'"),
        ((x[:3], x[:3]), r"x should be \(N, units\), N >= 4 samples; got \(3, 2\)"),
        ((x, torch.zeros(6, 2)), "same samples in the same order; got 5 and 6"),
        ((x, np.full((5, 2), np.nan)), "y should hold finite numbers"),
        ((x, x, "cka", [0, 1]), r"tasks should be \(5,\), one id for each sample; got \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            similarity(*args)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave_out should be a share"):
        similarity(x, x, leave_out=0.5)
