import math

import pytest
import torch
from torch import Tensor

from gbi_pyro.learning import find_collapse, report_collapse
from gbi_pyro.learning.collapse import mean_dwell_times


def scores(means: list[float], x: Tensor, sigma: float = 0.1) -> Tensor:
    return -0.5 * ((x.unsqueeze(-1) - torch.tensor(means)) / sigma) ** 2


def report(means: list[float], x: Tensor, **options: object) -> object:
    table = scores(means, x)
    return find_collapse(table, table.softmax(-1), **options)  # type: ignore[arg-type]


DATA = torch.tensor([0.2, 0.8]).repeat(50)


def test_tasks_in_use_that_differ_are_no_collapse() -> None:
    found = report([0.2, 0.8], DATA)
    assert not found.collapsed
    assert found.num_used == 2
    assert found.redundant == []
    assert found.effective_number == pytest.approx(2.0)
    # Mean |log p(x | 0) - log p(x | 1)| = (.6 / .1)^2 / 2.
    assert found.spread == pytest.approx(18.0, rel=1e-4)
    assert str(found) == "all 2 tasks are used and differ"


def test_a_task_far_from_all_data_is_unused() -> None:
    found = report([0.2, 5.0, 0.8], DATA)
    assert found.collapsed
    assert (found.unused, found.same, found.num_used, found.redundant) == ([1], [], 2, [1])
    assert "2 of 3 tasks are used; [1] explain less than 1% of the data each" in str(found)


def test_tasks_whose_outputs_coincide_are_one() -> None:
    found = report([0.2, 0.8, 0.2], DATA)
    assert (found.unused, found.same, found.num_used) == ([], [[0, 2]], 2)
    assert found.effective_number > 2.5  # usage alone would not tell
    assert len(found.redundant) == 1
    assert "[0, 2] are equal" in str(found)


def test_the_most_used_of_the_same_tasks_is_kept() -> None:
    gaps = torch.tensor([[0.0, 9.0, 0.01], [9.0, 0.0, 9.0], [0.01, 9.0, 0.0]])
    assert report_collapse(torch.tensor([0.2, 0.5, 0.3]), gaps).redundant == [0]
    assert report_collapse(torch.tensor([0.3, 0.5, 0.2]), gaps).redundant == [2]


def test_an_output_that_ignores_the_task_is_said_to() -> None:
    found = report([0.5, 0.5, 0.5], DATA)
    assert found.ignores_task
    assert found.collapsed
    assert found.spread == 0
    assert "does not depend on the task" in str(found)
    assert "recurrent" not in str(found)


@pytest.mark.parametrize("means", [[0.5, 0.5], [0.5, 5.0]])
def test_one_task_for_all_in_a_recurrent_network_names_the_history(means: list[float]) -> None:
    words = str(report(means, DATA, carries_history=True))
    assert "recurrent" in words
    assert "window_labels" in words


def test_pruned_tasks_are_not_counted() -> None:
    table = scores([0.2, 5.0, 0.8], DATA)
    table[:, 1] = -math.inf
    found = find_collapse(table, table.softmax(-1), torch.tensor([True, False, True]))
    assert not found.collapsed
    assert (found.num_tasks, found.num_used, found.pruned) == (2, 2, [1])
    assert found.spread == pytest.approx(18.0, rel=1e-4)


def test_a_single_task_that_is_left_does_not_collapse() -> None:
    found = report_collapse(
        torch.tensor([1.0, 0.0]), torch.zeros(2, 2), torch.tensor([True, False])
    )
    assert not found.collapsed
    assert not found.ignores_task


def test_any_batch_shape_will_do() -> None:
    table = scores([0.2, 0.8, 5.0], DATA)
    flat, folded = (find_collapse(t, t.softmax(-1)) for t in (table, table.reshape(4, 25, 3)))
    torch.testing.assert_close(flat.usage, folded.usage)
    torch.testing.assert_close(flat.gaps, folded.gaps)


def test_a_task_of_single_steps_marks_switches() -> None:
    """Under a sticky chain a task is a block of steps; where blocks are short, they are tasks."""
    tasks = torch.tensor([0] * 20 + [1] + [0] * 20 + [1] + [0] * 18)
    q = torch.eye(2)[tasks]
    found = find_collapse(100 * q, q, stay=torch.tensor([0.96, 0.96]))
    assert (found.fleeting, found.redundant, found.collapsed) == ([1], [1], True)
    assert "1 of 2 tasks are used; [1] last single steps" in str(found)
    assert not find_collapse(100 * q, q, stay=torch.tensor([0.96, 0.5])).collapsed
    assert not find_collapse(100 * q, q).collapsed
    blocks = torch.eye(2)[torch.tensor([0] * 20 + [1] * 4 + [0] * 20 + [1])]  # 2.5 steps
    assert not find_collapse(100 * blocks, blocks, stay=torch.tensor([0.96, 0.96])).collapsed


def test_blocks_of_sequences_are_not_joined() -> None:
    """The end of one sequence and the beginning of the next are no block."""
    q = torch.eye(2)[torch.tensor([[0, 0, 1], [1, 0, 0]])]
    torch.testing.assert_close(mean_dwell_times(q), torch.tensor([2.0, 1.0]))
    assert mean_dwell_times(q[:1, :2])[1].isnan()
