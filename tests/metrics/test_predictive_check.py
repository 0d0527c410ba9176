"""Posterior predictive checks: statistics of the data against replicated ones."""

from collections.abc import Callable, Mapping

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from gbi_pyro.metrics import predictive_check, tail_probability


def moments(x: Tensor) -> Mapping[str, float]:
    return {"mean": x.mean().item(), "spread": x.std().item()}


def test_tails_are_counted_to_both_sides_with_ties_half() -> None:
    drawn = torch.arange(10.0)
    assert tail_probability(-1.0, drawn) == 0
    assert tail_probability(99.0, drawn) == 0
    assert tail_probability(4.5, drawn) == 1
    assert tail_probability(0.0, drawn) == pytest.approx(0.1)
    assert tail_probability(9.0, drawn) == pytest.approx(0.1)
    assert tail_probability(5.0, [5.0, 5.0]) == 1
    assert tail_probability(drawn, drawn + 1) == 0  # draw by draw
    nan = float("nan")
    assert tail_probability(1.0, [nan, 0.0, 2.0]) == 1
    assert tail_probability(nan, drawn) != tail_probability(nan, drawn)


def test_data_of_the_model_itself_have_uniform_tails(generator: torch.Generator) -> None:
    data = torch.randn(150, 30, generator=generator)
    drawn = torch.randn(199, 30, generator=generator)
    tails = [predictive_check(moments, x, drawn) for x in data]
    for name in ("mean", "spread"):
        found = [tail_probability(c.observed[name], c.replicated[name]) for c in tails]
        assert kstest(found, "uniform").pvalue > 1e-3


def test_a_model_that_is_wrong_in_one_respect_shows_there(generator: torch.Generator) -> None:
    x = 2 * torch.randn(200, generator=generator)
    x = x - x.mean()
    check = predictive_check(moments, x, torch.randn(500, 200, generator=generator))
    mean, spread = check.table().records()
    assert mean["tail probability"] > 0.5
    assert spread["tail probability"] == 0
    assert spread["low"] < 1 < spread["high"] < spread["observed"]
    assert "spread" in str(check)


def test_latent_variables_are_compared_draw_by_draw(generator: torch.Generator) -> None:
    """A discrepancy that differs between draws far more than replicated from observed ones."""
    level = 100 * torch.randn(50, 1, generator=generator)
    check = predictive_check(moments, level + torch.zeros(50, 3), level + torch.ones(50, 3))
    assert check.observed["mean"].shape == (50,)
    row = check.table().records()[0]
    assert (row["tail probability"], row["draws"]) == (0, 50)


def test_undefined_draws_are_left_out_and_counted() -> None:
    def ratio(x: Tensor) -> Mapping[str, float]:
        return {"ratio": (x[0] / x[1]).item()}

    drawn = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
    row = predictive_check(ratio, torch.tensor([1.0, 1.0]), drawn).table(0.5).records()[0]
    assert (row["observed"], row["replicated"], row["draws"]) == (1.0, 1.75, 2)
    assert (row["low"], row["high"]) == pytest.approx((1.125, 2.375))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: predictive_check(moments, torch.zeros(3), torch.zeros(5, 2)),
            r"\(draws,\) \+ \(3,\).*got \(5, 2\)",
        ),
        (lambda: predictive_check(moments, torch.zeros(3), torch.zeros(0, 3)), r"got \(0, 3\)"),
        (
            lambda: predictive_check(lambda x: x, torch.zeros(3), torch.zeros(2, 3)),  # type: ignore[arg-type,return-value]
            "numbers by name",
        ),
        (
            lambda: predictive_check(lambda x: {str(x.sum()): 1.0}, torch.zeros(3), torch.eye(3)),
            "others from draw to draw",
        ),
        (lambda: tail_probability([1.0, 2.0], [1.0]), r"got \(1,\) and \(2,\)"),
        (lambda: predictive_check(moments, torch.zeros(3), torch.eye(3)).table(0.0), "level"),
    ],
)
def test_invalid_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
