import math

import pytest
import torch

from gbi_pyro.diagnostics.modularity import (
    normalised_task_variance,
    shared_unit_ratio,
    task_variance,
)

# Units: engaged in both tasks, in the first only, in the second only, in neither (constant).
A = torch.tensor([[0.0, 1.0, 0.5, 0.7], [1.0, -1.0, 0.5, 0.7], [0.0, 1.0, 0.5, 0.7]])
B = torch.tensor([[1.0, 0.2, 0.0, 0.7], [0.0, 0.2, 2.0, 0.7]])


def test_task_variance_by_hand() -> None:
    activity = torch.tensor([[[1.0, 4.0], [3.0, 4.0]], [[8.0, 4.0], [8.0, 4.0]]])
    tasks = torch.tensor([[0, 0], [5, 5]])
    # Means 2 and 8 around 5: variance 9; the second unit does not tell the tasks apart.
    assert task_variance(activity, tasks).tolist() == [9.0, 0.0]


def test_task_variance_counts_a_task_once_however_long_it_lasts() -> None:
    once = task_variance(torch.cat([A, B]), torch.tensor([0, 0, 0, 1, 1]))
    often = task_variance(torch.cat([A, B, B, B]), torch.tensor([0] * 3 + [1] * 6))
    torch.testing.assert_close(once, often)


def test_task_variance_moves_with_scale_but_not_with_an_offset(generator: torch.Generator) -> None:
    activity = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    tasks = torch.randint(0, 3, (40,), generator=generator)
    plain = task_variance(activity, tasks)
    torch.testing.assert_close(task_variance(3 * activity + 7, tasks), 9 * plain)
    torch.testing.assert_close(task_variance(activity, (tasks + 1) % 3), plain)


def test_normalised_variance_by_hand() -> None:
    share, active = normalised_task_variance([A, B])
    # First unit: variances 2/9 and 1/4.
    torch.testing.assert_close(share[:, 0], torch.tensor([8 / 9, 1.0]))
    assert share[:, 1].tolist() == [1, 0]
    assert share[:, 2].tolist() == [0, 1]
    assert share[:, 3].tolist() == [0, 0]
    assert active.tolist() == [True, True, True, False]


def test_shared_units_by_hand() -> None:
    assert shared_unit_ratio([A, B]) == pytest.approx(1 / 3)
    assert shared_unit_ratio([A, B], threshold=0.9) == 0
    assert shared_unit_ratio([A, A]) == 1
    assert shared_unit_ratio([A[:, 1:3], B[:, 1:3]]) == 0
    assert shared_unit_ratio([A, B, A[:2]]) == pytest.approx(1 / 3)


def test_order_of_tasks_units_and_steps_offsets_and_scales_do_not_matter(
    generator: torch.Generator,
) -> None:
    a, b = torch.randn(2, 30, 20, generator=generator)
    width = torch.rand(2, 20, generator=generator) ** 2
    a, b = a * width[0], b * width[1]
    ratio = shared_unit_ratio([a, b], silent=0)
    assert 0 < ratio < 1
    steps, units = torch.randperm(30, generator=generator), torch.randperm(20, generator=generator)
    assert shared_unit_ratio([b, a], silent=0) == ratio
    assert shared_unit_ratio([a[steps][:, units], b[:, units]], silent=0) == ratio
    assert shared_unit_ratio([4 * a + 1, 4 * b - 1], silent=0) == ratio


def test_silent_units_change_nothing_and_alone_give_no_ratio() -> None:
    dead_a, dead_b = torch.full((3, 9), 0.1), torch.full((2, 9), 0.1)
    ratio = shared_unit_ratio([torch.cat([A, dead_a], 1), torch.cat([B, dead_b], 1)])
    assert ratio == shared_unit_ratio([A, B])
    assert math.isnan(shared_unit_ratio([dead_a, dead_b]))
    assert math.isnan(shared_unit_ratio([A, B], silent=100.0))


def test_unfit_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"activity_by_task .* of two tasks"):
        shared_unit_ratio([A])
    with pytest.raises(ValueError, match=r"of the same units; got \[\(3, 4\), \(2, 3\)\]"):
        shared_unit_ratio([A, B[:, :3]])
    with pytest.raises(ValueError, match="N_k >= 2"):
        normalised_task_variance([A, B[:1]])
    with pytest.raises(ValueError, match="flatten time and trials"):
        normalised_task_variance([A[None], B[None]])
    with pytest.raises(ValueError, match=r"threshold should be a share in \[0, 1\); got 1"):
        shared_unit_ratio([A, B], threshold=1.0)
    with pytest.raises(ValueError, match="tasks should have the shape of activity"):
        task_variance(A, torch.tensor([0, 1]))
