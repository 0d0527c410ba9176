import pytest
import torch

from gbi_pyro.inference.num_tasks import one_standard_error


def test_the_smallest_number_within_one_standard_error_is_chosen() -> None:
    best = torch.tensor([1.0, 2.0, 3.0, 4.0])
    error = (best.std() / 2).item()
    scores = {1: best - 2 * error, 2: best - 0.9 * error, 3: best, 4: best - 1e-6}
    choice = one_standard_error(scores)
    assert choice.num_tasks == 2
    assert choice.standard_error == pytest.approx(error)
    assert one_standard_error({k: v for k, v in scores.items() if k != 2}).num_tasks == 3


def test_the_order_of_the_candidates_does_not_matter(generator: torch.Generator) -> None:
    scores = {k: torch.randn(20, generator=generator) for k in (1, 2, 3, 4)}
    backwards = dict(reversed(scores.items()))
    assert one_standard_error(scores) == one_standard_error(backwards)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "no candidate"),
        ({1: torch.ones(3), 2: torch.ones(4)}, "expected the same ones for all"),
        ({1: torch.tensor([0.0, torch.nan])}, r"K = \[1\] hold NaN"),
        ({1: torch.ones(())}, "N >= 2"),
    ],
)
def test_unfit_scores_are_errors(scores: dict[int, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_standard_error(scores)


def test_one_element_has_no_standard_error() -> None:
    with pytest.raises(ValueError, match="N >= 2"):
        one_standard_error({1: torch.ones(1)})
