import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pyro_models import random_log_probs
from torch import Tensor

from gbi_pyro.joint import JointTable
from gbi_pyro.metrics import (
    agreement,
    argmax_agreement,
    kl,
    log_odds,
    total_variation,
)
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.sites import TaskSite, TaskSiteError


def posterior(**log_probs: Tensor) -> TaskPosterior:
    sites = {n: TaskSite(n, v, (None,) * (v.dim() - 1)) for n, v in log_probs.items()}
    return TaskPosterior(dict(log_probs), sites, "example")


@pytest.fixture
def pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return random_log_probs(generator, 50, 4, 5), random_log_probs(generator, 50, 4, 5)


def test_kl_agrees_with_torch(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    torch.testing.assert_close(kl(p, q), expected, rtol=1e-12, atol=1e-12)


def test_kl_is_positive_and_zero_only_for_equals(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    assert (kl(p, q) > 0).all()
    assert (kl(p, p) == 0).all()
    assert (total_variation(p, p) == 0).all()


@pytest.mark.parametrize("epsilon", [1e-4, 1e-7, 1e-10])
def test_tiny_kl_is_half_the_chi_square_even_below_rounding(epsilon: float) -> None:
    p = torch.tensor([0.3, 0.7], dtype=torch.float64)
    q = p + epsilon * torch.tensor([1.0, -1.0], dtype=torch.float64)
    expected = 0.5 * epsilon**2 * (1 / 0.3 + 1 / 0.7)  # next term: a share of order epsilon
    # log p - log q itself is rounded, by about 1e-16 of a value of order epsilon.
    assert kl(p.log(), q.log()).item() == pytest.approx(
        expected, rel=10 * epsilon + 4e-16 / epsilon
    )


def test_single_precision_rows_never_give_a_negative_kl(generator: torch.Generator) -> None:
    p = random_log_probs(generator, 1000, 10).float()
    noise = 1e-6 * torch.randn(p.shape, generator=generator)
    assert (kl(p, (p + noise).log_softmax(-1)) >= 0).all()


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_pinsker(generator: torch.Generator, scale: float) -> None:
    p = random_log_probs(generator, 500, 3, scale=scale)
    q = random_log_probs(generator, 500, 3, scale=scale)
    tv = total_variation(p, q)
    assert (tv <= (kl(p, q) / 2).sqrt()).all()
    assert (tv <= 1).all()


def test_total_variation_is_the_best_event(generator: torch.Generator) -> None:
    p, q = random_log_probs(generator, 4), random_log_probs(generator, 4)
    events = torch.tensor([[i >> k & 1 for k in range(4)] for i in range(16)], dtype=p.dtype)
    best = (events @ (p.exp() - q.exp())).abs().max()
    torch.testing.assert_close(total_variation(p, q), best)


def test_zero_times_log_zero_is_zero_and_a_forbidden_task_costs_everything() -> None:
    sure, half = torch.tensor([1.0, 0.0]).log(), torch.tensor([0.5, 0.5]).log()
    assert kl(sure, half).item() == pytest.approx(math.log(2))
    assert kl(half, sure).item() == math.inf
    assert kl(sure, sure).item() == 0
    assert total_variation(sure, torch.tensor([0.0, 1.0]).log()).item() == 1


def test_a_task_below_the_smallest_number_is_no_forbidden_one() -> None:
    p = torch.tensor([0.0, -2000.0], dtype=torch.float64)  # exp(-2000) is 0 in double precision
    assert kl(p, torch.tensor([0.0, -1000.0])).item() == pytest.approx(0)
    assert kl(p, torch.tensor([0.0, -math.inf])).item() == math.inf
    half = torch.tensor([0.5, 0.5]).log()
    assert kl(half, p).item() == pytest.approx(1000 - math.log(2))


def test_names_of_tasks_do_not_matter(
    pair: tuple[Tensor, Tensor], generator: torch.Generator
) -> None:
    p, q = pair
    order = torch.randperm(5, generator=generator)
    for measure in (kl, total_variation):
        torch.testing.assert_close(measure(p[..., order], q[..., order]), measure(p, q))
    assert torch.equal(argmax_agreement(p[..., order], q[..., order]), argmax_agreement(p, q))


def test_a_tie_is_agreed_on_by_either_choice() -> None:
    tie = torch.tensor([0.5, 0.5]).log()
    for other in ([0.9, 0.1], [0.1, 0.9], [0.5, 0.5]):
        assert argmax_agreement(tie, torch.tensor(other).log())


def test_agreement_averages_over_elements(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    found = agreement(p, q)
    assert found.num_elements == 200
    assert found.kl == pytest.approx(kl(p, q).mean().item())
    assert found.reverse_kl == pytest.approx(kl(q, p).mean().item())
    assert found.total_variation == pytest.approx(total_variation(p, q).mean().item())
    same = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert found.argmax_agreement == pytest.approx(same)
    assert found.max_difference == pytest.approx((p.exp() - q.exp()).abs().max().item())
    swapped = agreement(q, p)
    assert (swapped.kl, swapped.reverse_kl) == (found.reverse_kl, found.kl)


def test_agreement_takes_posteriors_tensors_and_arrays(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    expected = agreement(p, q)
    assert agreement(posterior(z=p), posterior(z=q)) == expected
    assert agreement(posterior(z=p), q.numpy()) == expected
    assert agreement(posterior(y=q, z=p), posterior(y=p, z=q), site="z") == expected
    assert agreement(p.clone().requires_grad_(), q) == expected
    with pytest.raises(TaskSiteError, match="'w' is not a task site"):
        agreement(posterior(z=p), posterior(z=q), site="w")


def test_several_sites_are_compared_jointly(pair: tuple[Tensor, Tensor]) -> None:
    """The divergence of products is the sum of divergences: the chain rule."""
    p, q = pair
    both = agreement(posterior(y=q, z=p), posterior(z=q, y=p))
    assert both.kl == pytest.approx(agreement(p, q).kl + agreement(q, p).kl, rel=1e-9)
    with pytest.raises(ValueError, match=r"same task sites; got \['y', 'z'\] and \['w', 'z'\]"):
        agreement(posterior(y=q, z=p), posterior(w=q, z=p))


def test_what_hangs_together_is_not_lost(pair: tuple[Tensor, Tensor]) -> None:
    """Two tasks that always agree: the product of their marginals loses log 2."""
    same = torch.eye(2, dtype=torch.float64).div(2).log().expand(3, 2, 2)
    half = torch.full((3, 2), 0.5, dtype=torch.float64).log()
    product = posterior(y=half, z=half)
    exact = replace(product, joint=JointTable(("y", "z"), same))
    assert agreement(exact, product).kl == pytest.approx(math.log(2), rel=1e-12)
    assert agreement(exact, product, site="z").kl == 0


@pytest.mark.parametrize(
    ("p", "q", "message"),
    [
        (np.log([[0.5, 0.5]]), np.log([0.5, 0.5]), r"log_q should have the shape of log_p"),
        (np.array([0.5, 0.5]), np.log([0.5, 0.5]), r"log_p should hold log prob.*sums to 3\.29"),
        (np.log([0.5, 0.5]), np.array([np.nan, 0.0]), r"log_q should hold log probabilities"),
        (np.array(0.0), np.array(0.0), r"log_p should be \(\.\.\., K\)"),
    ],
)
def test_invalid_arguments_are_named(p: np.ndarray, q: np.ndarray, message: str) -> None:
    for measure in (kl, total_variation, argmax_agreement):
        with pytest.raises(ValueError, match=message):
            measure(p, q)


def test_unequal_posteriors_and_empty_ones_are_refused() -> None:
    p = torch.tensor([[0.5, 0.5]]).log()
    with pytest.raises(ValueError, match=r"estimate should have the shape of exact, \(1, 2\)"):
        agreement(posterior(z=p), posterior(z=p.expand(3, 2)))
    with pytest.raises(ValueError, match="at least one element"):
        agreement(p[:0], p[:0])


def test_log_odds_are_differences_of_log_probabilities(pair: tuple[Tensor, Tensor]) -> None:
    p, q = pair
    found = log_odds(posterior(z=p), q.numpy(), reference=2)
    torch.testing.assert_close(found.exact, p - p[..., 2:3])
    torch.testing.assert_close(found.estimate, q - q[..., 2:3])
    centred = log_odds(p, q)
    torch.testing.assert_close(centred.exact.sum(-1), torch.zeros(50, 4, dtype=p.dtype))
    # The reference changes no difference between tasks.
    torch.testing.assert_close(centred.exact.diff(dim=-1), found.exact.diff(dim=-1))
    torch.testing.assert_close(centred.exact.log_softmax(-1), p)


def test_a_temperature_is_a_slope_and_an_offset_a_shift(pair: tuple[Tensor, Tensor]) -> None:
    p, _ = pair
    offset = torch.tensor([0.3, -0.1, 0.0, 0.2, -0.4], dtype=p.dtype)
    found = log_odds(p, (2 * p + offset).log_softmax(-1))
    torch.testing.assert_close(found.estimate, 2 * found.exact + offset - offset.mean())


def test_log_odds_against_an_impossible_task_are_refused() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.25, 0.5]).log()
    assert log_odds(p, q, reference=0).exact.tolist() == [0, 0, -math.inf]
    with pytest.raises(ValueError, match="exact should have finite log odds against the mean"):
        log_odds(p, q)
    with pytest.raises(ValueError, match="estimate should have finite log odds against task 2"):
        log_odds(q, p, reference=2)
    with pytest.raises(ValueError, match=r"reference should be a task, 0 \.\. 2"):
        log_odds(p, q, reference=3)
    with pytest.raises(ValueError, match="estimate should have the shape"):
        log_odds(p, q[:2].log_softmax(-1))
