import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from gbi_pyro.representation import routing

TASKS = torch.arange(400) % 4


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_a_module_for_each_task(order: list[int]) -> None:
    found = routing(TASKS, torch.tensor(order)[TASKS])
    assert found == pytest.approx((0, 0, math.log(4), 1, 1), abs=1e-12)


def test_one_module_for_everything() -> None:
    found = routing(TASKS, torch.zeros(400, dtype=torch.long), num_modules=4)
    assert found == pytest.approx((1, 1, 0, 0, 0.25), abs=1e-12)


def test_all_modules_alike_for_each_task() -> None:
    found = routing(TASKS, torch.full((400, 4), 0.25))
    assert found == pytest.approx((0, 0, 0, 0, 0.25), abs=1e-12)


def test_information_is_that_of_scikit_learn_and_its_bias(generator: torch.Generator) -> None:
    """By chance 2 N I is chi-squared with (K - 1) (R - 1) degrees of freedom."""
    found = []
    for _ in range(200):
        modules = torch.randint(4, (400,), generator=generator)
        found.append(routing(TASKS, modules, num_modules=4).information)
        assert found[-1] == pytest.approx(mutual_info_score(TASKS, modules), abs=1e-12)
    expected, error = 9 / 800, math.sqrt(18) / 800 / math.sqrt(200)
    assert abs(sum(found) / 200 - expected) < 4 * error + 0.05 * expected


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([0, 0, 0], "two modules or more"),
        ([0, -1, 1], "ids 0 .. 1 of two modules"),
        ([[0.5, 0.4]] * 3, "shares >= 0 that sum to 1"),
        ([0.5, 0.5, 0.1], r"ids \(N,\), integers, or shares"),
        ([[0.5, 0.5]] * 2, r"tasks should be \(2,\)"),
    ],
)
def test_what_is_no_routing_is_named(modules: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        routing([0, 1, 1], modules)
