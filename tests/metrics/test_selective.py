"""Risk against coverage, where it is known by hand or by symmetry."""

import itertools

import pytest
import torch

from gbi_pyro.metrics import accuracy, risk_coverage, temper


def test_at_full_coverage_the_risk_is_the_error(generator: torch.Generator) -> None:
    log_q = torch.randn(100, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    labels = torch.randint(3, (100,), generator=generator)
    found = risk_coverage(log_q, labels)
    assert found.risk[-1].item() == pytest.approx(1 - accuracy(log_q, labels))
    assert found.coverage[-1] == 1
    assert found.area == pytest.approx(found.risk.mean().item())
    # The order is all that counts; for two tasks a temperature keeps it.
    two = torch.randn(100, 2, generator=generator, dtype=torch.float64).log_softmax(-1)
    expected = risk_coverage(two, labels % 2).risk
    torch.testing.assert_close(risk_coverage(temper(two, 3.0), labels % 2).risk, expected)


def test_a_good_order_beats_a_bad_one_with_chance_between() -> None:
    sure = torch.linspace(0.6, 0.9, 10, dtype=torch.float64)
    log_q = torch.stack([sure, 1 - sure], -1).log()
    wrong_where_unsure = torch.tensor([1] * 4 + [0] * 6)
    best = risk_coverage(log_q, wrong_where_unsure)
    assert best.risk[:6].eq(0).all()
    worst = risk_coverage(log_q, wrong_where_unsure.flip(0))
    assert worst.risk[:4].eq(1).all()
    flat = risk_coverage(log_q[:1].expand(10, 2), wrong_where_unsure)
    torch.testing.assert_close(flat.risk, torch.full_like(flat.risk, 0.4))
    assert best.area < flat.area < worst.area


def test_ties_are_averaged_over_every_order() -> None:
    log_q = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.7, 0.3], [0.7, 0.3]]).double().log()
    labels = torch.tensor([1, 0, 1, 0])
    errors = torch.tensor([1.0, 0.0, 1.0, 0.0]).double()
    answered = torch.arange(1, 5)
    orders = [errors[[0, *o]].cumsum(0) / answered for o in itertools.permutations([1, 2, 3])]
    expected = torch.stack(orders).mean(0)
    for order in itertools.permutations(range(4)):
        found = risk_coverage(log_q[list(order)], labels[list(order)])
        torch.testing.assert_close(found.risk, expected)


def test_invalid_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="at least one element"):
        risk_coverage(torch.zeros(0, 1), torch.zeros(0, dtype=torch.long))
