"""Tables of confidence against accuracy, on forecasts whose calibration is known."""

import math

import pytest
import torch
from torch import Tensor

from gbi_pyro.metrics import (
    ReliabilityTable,
    accuracy,
    classwise_calibration_error,
    expected_calibration_error,
    reliability_table,
    temper,
)

STRATEGIES = ("width", "mass")


def forecasts(generator: torch.Generator, n: int, K: int = 4) -> tuple[Tensor, Tensor]:
    """Random posteriors, and labels drawn from them."""
    logits = 2 * torch.randn(n, K, generator=generator, dtype=torch.float64)
    log_p = logits.log_softmax(-1)
    labels = torch.multinomial(log_p.exp(), 1, generator=generator).squeeze(-1)
    return log_p, labels


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_calibrated_posterior_stays_inside_its_intervals_as_often_as_they_say(
    generator: torch.Generator, strategy: str
) -> None:
    inside = total = 0
    for _ in range(100):
        log_p, labels = forecasts(generator, 400)
        table = reliability_table(log_p, labels, 5, strategy)
        enough = table.num_elements >= 20
        within = (table.accuracy_low <= table.confidence) & (
            table.confidence <= table.accuracy_high
        )
        inside, total = inside + int(within[enough].sum()), total + int(enough.sum())
    # Five standard errors; the variance of a bin is a little less than binomial, so no upper bound.
    assert total >= 300
    assert inside / total > 0.95 - 5 * math.sqrt(0.95 * 0.05 / total)
    log_p, labels = forecasts(generator, 4000)
    sure = reliability_table(temper(log_p, 0.3), labels, 5, strategy)
    assert bool((sure.accuracy_high < sure.confidence)[-1])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("task", [None, 0, 3])
def test_bins_add_up_to_the_whole(
    generator: torch.Generator, strategy: str, task: int | None
) -> None:
    log_p, labels = forecasts(generator, 300)
    table = reliability_table(log_p, labels, 7, strategy, task=task)
    n = table.num_elements.double()
    assert n.sum() == 300
    assert (n > 0).all()
    assert (table.low[1:] >= table.high[:-1]).all()
    assert ((table.low <= table.confidence) & (table.confidence <= table.high)).all()
    assert ((table.accuracy_low <= table.accuracy) & (table.accuracy <= table.accuracy_high)).all()
    q = log_p.exp()
    mean = q.amax(-1).mean() if task is None else q[:, task].mean()
    share = accuracy(log_p, labels) if task is None else (labels == task).double().mean().item()
    assert (n * table.confidence).sum().item() / 300 == pytest.approx(mean.item())
    assert (n * table.accuracy).sum().item() / 300 == pytest.approx(share)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_calibration_error_comes_from_the_table(
    generator: torch.Generator, strategy: str
) -> None:
    log_p, labels = forecasts(generator, 300)
    table = reliability_table(log_p, labels, 9, strategy)
    gaps = (table.accuracy - table.confidence).abs() * table.num_elements / 300
    expected = expected_calibration_error(log_p, labels, 9, strategy)
    assert expected == pytest.approx(gaps.sum().item())
    by_task = [reliability_table(log_p, labels, 9, strategy, task=k) for k in range(4)]
    assert classwise_calibration_error(log_p, labels, 9, strategy) == pytest.approx(
        sum(t.calibration_error for t in by_task) / 4
    )


def test_mass_is_equal_where_no_confidences_are(generator: torch.Generator) -> None:
    log_p, labels = forecasts(generator, 300)
    assert reliability_table(log_p, labels, 6, "mass").num_elements.tolist() == [50] * 6


def test_classwise_sees_what_the_most_probable_task_does_not(generator: torch.Generator) -> None:
    # The two smaller tasks are swapped: the largest probability stays right, and is right as often.
    p = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).expand(20_000, 3)
    labels = torch.multinomial(p, 1, generator=generator).squeeze(-1)
    swapped = p[:, [0, 2, 1]].log()
    chance = 5 * math.sqrt(0.25 / 20_000)
    assert expected_calibration_error(swapped, labels) < chance
    assert classwise_calibration_error(swapped, labels) == pytest.approx(2 * 0.2 / 3, abs=chance)
    assert classwise_calibration_error(p.log(), labels) < chance


def test_two_tasks_have_one_classwise_error(generator: torch.Generator) -> None:
    log_p, labels = forecasts(generator, 500, K=2)
    tables = [reliability_table(log_p, labels, 10, task=k) for k in (0, 1)]
    assert tables[0].calibration_error == pytest.approx(tables[1].calibration_error)
    torch.testing.assert_close(tables[0].accuracy, 1 - tables[1].accuracy.flip(0))


def test_invalid_arguments_are_named() -> None:
    log_p, labels = torch.tensor([[0.5, 0.5]]).log(), [0]
    for options, message in (
        ({"bins": 0}, "bins should be 1 or more; got 0"),
        ({"strategy": "even"}, "strategy should be 'width' or 'mass'; got 'even'"),
        ({"task": 2}, r"task should be one of 0 \.\. 1"),
        ({"level": 2.0}, "level should be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            reliability_table(log_p, labels, **options)
    with pytest.raises(ValueError, match="labels should be integers"):
        classwise_calibration_error(log_p, [0.5])
    assert isinstance(reliability_table(log_p, labels), ReliabilityTable)
