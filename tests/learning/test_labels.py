import pytest
import torch

from gbi_pyro.learning import clamp_log_likelihoods, match_labels, order_tasks
from gbi_pyro.sites import check_labels


def test_a_known_task_excludes_the_others_and_an_unknown_one_none(
    generator: torch.Generator,
) -> None:
    evidence = torch.randn(4, 3, generator=generator)
    labels = torch.tensor([0, -1, 2, -1])
    q = clamp_log_likelihoods(evidence, labels).softmax(-1)
    torch.testing.assert_close(q[[0, 2]], torch.eye(3)[[0, 2]])
    torch.testing.assert_close(q[[1, 3]], evidence.softmax(-1)[[1, 3]])


@pytest.mark.parametrize("K", [2, 3, 5])
def test_a_permutation_is_found_from_a_few_labels(K: int, generator: torch.Generator) -> None:
    """Labels are true ids; the network numbers the same tasks in another order."""
    order = torch.randperm(K, generator=generator)
    truth = torch.randint(K, (200,), generator=generator)
    q = (4 * torch.eye(K)[order[truth]] + torch.randn(200, K, generator=generator)).softmax(-1)
    labels = truth.where(torch.rand(200, generator=generator) < 0.3, torch.tensor(-1))
    names = match_labels(q, labels)
    assert names[:-1].tolist() == order.tolist()
    assert torch.equal(names[labels] == -1, labels == -1)


def test_without_labels_any_match_is_one_to_one() -> None:
    names = match_labels(torch.full((3, 4), 0.25), torch.full((3,), -1))
    assert sorted(names.tolist()) == [-1, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 1.0]), "integer task ids"),
        (torch.tensor([True, False]), "integer task ids"),
        (torch.tensor([0, 1, 1]), r"have shape \(3,\), expected \(2,\)"),
        (torch.tensor([0, 3]), r"task ids 0 \.\. 2.* from 0 to 3"),
        (torch.tensor([-2, 0]), "from -2 to 0"),
    ],
)
def test_invalid_labels_are_errors(labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_labels(labels, torch.Size([2]), 3)
    with pytest.raises(ValueError, match=message):
        match_labels(torch.full((2, 3), 1 / 3), labels)


def test_labels_are_shared_along_a_dimension() -> None:
    labels = check_labels(torch.tensor([[0], [1]]), torch.Size([2, 4]), 2)
    assert labels.tolist() == [[0] * 4, [1] * 4]


def test_tasks_are_ordered_by_a_number_of_theirs(generator: torch.Generator) -> None:
    values = torch.randn(6, generator=generator)
    order = order_tasks(values)
    assert torch.equal(values[order], values.sort().values)
    assert order_tasks(values[order]).tolist() == list(range(6))
    assert torch.equal(order_tasks(values, descending=True), order.flip(0))
    assert order_tasks([2, 1, 1, 0]).tolist() == [3, 1, 2, 0]  # equal ones keep their order


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, float("nan")], 3.0])
def test_numbers_that_order_nothing_are_errors(values: object) -> None:
    with pytest.raises(ValueError, match="one number for each task"):
        order_tasks(values)  # type: ignore[arg-type]
