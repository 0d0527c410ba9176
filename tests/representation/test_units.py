import math

import pytest
import torch

from gbi_pyro.representation import (
    normalised_task_variance,
    shared_unit_ratio,
    shared_unit_sweep,
    task_information,
    task_variance,
)
from gbi_pyro.representation.units import THRESHOLDS

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


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3])
def test_which_units_are_silent_does_not_depend_on_the_scale(
    generator: torch.Generator, scale: float
) -> None:
    spread = torch.tensor([1.0, 0.5, 0.04, 0.02, 0.0], dtype=torch.float64)
    a, b = torch.randn(2, 4000, 5, generator=generator, dtype=torch.float64) * spread
    share, active = normalised_task_variance([a, b])
    # Variances are spread ** 2 times that of the first unit: 1.6e-3 and .4e-3 of it.
    assert active.tolist() == [True, True, True, False, False]
    scaled, same = normalised_task_variance([scale * a, scale * b])
    assert same.equal(active)
    torch.testing.assert_close(scaled, share)
    sweep, other = shared_unit_sweep([a, b]), shared_unit_sweep([scale * a, scale * b])
    assert other.area == pytest.approx(sweep.area)
    assert other.ratio.equal(sweep.ratio)


def test_invalid_arguments_are_named() -> None:
    for silent in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"silent should be a share .* in \[0, 1\); got"):
            shared_unit_ratio([A, B], silent=silent)
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


# The threshold swept


def test_a_sweep_is_the_ratio_at_each_threshold(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 30, 20, generator=generator) * torch.rand(20, generator=generator)
    sweep = shared_unit_sweep([a, b])
    assert sweep.thresholds.tolist() == list(THRESHOLDS)
    one_by_one = [shared_unit_ratio([a, b], t) for t in THRESHOLDS]
    assert sweep.ratio.tolist() == pytest.approx(one_by_one)
    assert bool((sweep.ratio.diff() <= 0).all())
    assert sweep.ratio[0] > sweep.ratio[-1]


def test_the_area_is_the_integral_of_the_ratio(generator: torch.Generator) -> None:
    a, b = torch.randn(2, 6, 20, generator=generator)
    grid = torch.arange(5000) / 5000 + 1e-4
    sweep = shared_unit_sweep([a, b], grid.tolist())
    assert sweep.area == pytest.approx(sweep.ratio.mean().item(), abs=1e-3)
    share, _ = normalised_task_variance([a, b])
    assert sweep.area == pytest.approx(share.amin(0).mean().item())


def test_a_sweep_of_silent_units_is_nan() -> None:
    sweep = shared_unit_sweep([torch.zeros(3, 2), torch.ones(3, 2)])
    assert bool(sweep.ratio.isnan().all())
    assert math.isnan(sweep.area)


# Information


def test_units_that_tell_the_task_apart_hold_its_entropy() -> None:
    """Disjoint activity: psi(N) - <psi(N_task)>, which tends to the entropy of the tasks."""
    tasks = torch.tensor([0] * 300 + [4] * 100)
    activity = torch.linspace(0, 1, 400).unsqueeze(-1) + 10 * tasks.unsqueeze(-1)
    counts = torch.tensor([300.0, 100.0], dtype=torch.float64)
    expected = (
        torch.digamma(torch.tensor(400.0, dtype=torch.float64))
        - (counts / 400 * torch.digamma(counts)).sum()
    )
    found = task_information(activity, tasks)
    assert found.item() == pytest.approx(expected.item(), abs=1e-10)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.item() == pytest.approx(entropy, abs=2 / 400)


def test_information_of_two_gaussians(generator: torch.Generator) -> None:
    """Against quadrature of the mixture, over 200 units of the same law."""
    tasks = torch.arange(1000) % 2
    activity = torch.randn(1000, 200, generator=generator, dtype=torch.float64)
    activity = activity + 1.5 * tasks.unsqueeze(-1)
    grid = torch.linspace(-8, 10, 20001, dtype=torch.float64)
    unit = [torch.distributions.Normal(m, 1.0).log_prob(grid) for m in (0.0, 1.5)]
    mixture = torch.logaddexp(*unit) - math.log(2)
    density = sum(0.5 * p.exp() * (p - mixture) for p in unit)
    truth = torch.trapezoid(torch.as_tensor(density), grid).item()
    found = task_information(activity, tasks)
    error = found.std().item() / math.sqrt(200)
    assert found.mean().item() == pytest.approx(truth, abs=5 * error)
    assert 5 * error < 0.05 * truth


def test_information_does_not_mind_scale_order_or_names(generator: torch.Generator) -> None:
    tasks = torch.randint(0, 3, (40, 5), generator=generator)
    activity = torch.randn(40, 5, 4, generator=generator, dtype=torch.float64)
    activity = activity + tasks.unsqueeze(-1) * torch.tensor([0.0, 1.0, 2.0, 4.0])
    found = task_information(activity, tasks)
    assert bool((found.diff() > 0).all())
    torch.testing.assert_close(task_information(5 * activity - 3, tasks), found, rtol=0, atol=1e-12)
    torch.testing.assert_close(task_information(activity, 7 - tasks), found, rtol=0, atol=1e-12)
    assert torch.equal(task_information(activity, tasks), found)


def test_a_unit_that_does_not_vary_tells_nothing() -> None:
    tasks = torch.arange(20) % 2
    still = torch.full((20, 1), 0.7)
    assert task_information(torch.cat([still, tasks.unsqueeze(-1)], 1), tasks)[0] == 0


def test_invalid_representations_are_named() -> None:
    with pytest.raises(ValueError, match=r"thresholds should be shares in \[0, 1\)"):
        shared_unit_sweep([A, B], [0.1, 1.0])
    with pytest.raises(ValueError, match="at least one"):
        shared_unit_sweep([A, B], [])
    with pytest.raises(ValueError, match="tasks should have the shape of activity"):
        task_information(A, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="neighbours should be 1 or more; got 0"):
        task_information(A, torch.tensor([0, 1, 1]), neighbours=0)
    for tasks in ([0, 0, 0], [0, 0, 1]):
        with pytest.raises(ValueError, match="two ids or more, each for more than neighbours=1"):
            task_information(A, torch.tensor(tasks), neighbours=1)
