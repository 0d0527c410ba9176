import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from gbi_pyro import (
    Enumeration,
    OneStepGradient,
    clamped_loss,
    find_task_sites,
    relaxed_log_joint,
)
from gbi_pyro.models import SwitchingGaussian

F64 = torch.float64
MEANS = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
LOG_PRIOR = torch.tensor([0.6, 0.1, 0.3], dtype=F64).log()


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.rand(3, 4, generator=generator, dtype=F64)


def log_normal(x: Tensor, mean: Tensor, sigma: float) -> Tensor:
    return -0.5 * ((x - mean) / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))


def test_its_task_site_is_one_task_for_each_step(x: Tensor) -> None:
    site = find_task_sites(SwitchingGaussian(MEANS, 0.1, LOG_PRIOR), x)["z"]
    assert site.dims == ("sequence", "time")
    assert (site.num_tasks, tuple(site.batch_shape)) == (3, (3, 4))
    torch.testing.assert_close(site.log_prior[0, 0], LOG_PRIOR)


def test_the_log_joint_of_a_mixture_is_the_formula(x: Tensor, generator: torch.Generator) -> None:
    """log N(x; q . mu, sigma) + q . log pi, the prior given up to a constant."""
    q = torch.randn(3, 4, 3, generator=generator, dtype=F64).softmax(-1)
    joint = relaxed_log_joint(SwitchingGaussian(MEANS, 0.2, LOG_PRIOR + 5.0), {"z": q}, x)
    torch.testing.assert_close(joint.likelihood, log_normal(x, q @ MEANS, 0.2).sum())
    torch.testing.assert_close(joint.prior, (q * LOG_PRIOR).sum())


@pytest.mark.parametrize("log_prior", [None, LOG_PRIOR])
def test_enumeration_is_the_textbook_mixture(x: Tensor, log_prior: Tensor | None) -> None:
    prior = torch.full((3,), 1 / 3, dtype=F64).log() if log_prior is None else log_prior
    scores = log_normal(x.unsqueeze(-1), MEANS, 0.2) + prior
    exact = Enumeration()(SwitchingGaussian(MEANS, 0.2, log_prior), x)
    torch.testing.assert_close(exact.logits(), scores.log_softmax(-1), rtol=0, atol=1e-12)
    evidence = exact.log_evidence
    assert evidence is not None
    torch.testing.assert_close(evidence, scores.logsumexp(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("prior", [(0.5, 0.5), (0.9, 0.1), (1e-4, 1 - 1e-4)])
@pytest.mark.parametrize("sigma", [0.1, 0.3])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (F64, 1e-6)])
def test_one_step_is_exact_for_two_tasks(
    prior: tuple[float, float], sigma: float, dtype: torch.dtype, bar: float
) -> None:
    """The bar of the table, 1e-6, in float64; float32 scores of size 50 carry 50 * 1e-7."""
    model = SwitchingGaussian(
        torch.tensor([0.2, 0.8], dtype=dtype), sigma, torch.tensor(prior).log().to(dtype)
    )
    grid = torch.linspace(-0.2, 1.2, 57, dtype=dtype).reshape(1, -1)
    difference = OneStepGradient()(model, grid).probs() - Enumeration()(model, grid).probs()
    assert difference.abs().max() <= bar


@pytest.mark.parametrize("training", [True, False])
def test_both_modes_of_a_module_give_the_same(x: Tensor, training: bool) -> None:
    model = SwitchingGaussian(MEANS, 0.2).train(training)
    second = OneStepGradient(order=2)(model, x).logits()
    torch.testing.assert_close(second, Enumeration()(model, x).logits(), rtol=0, atol=1e-10)


def test_labels_make_it_observed(x: Tensor) -> None:
    z = torch.zeros(3, 4, dtype=torch.long)
    one_hot = torch.eye(3, dtype=F64)[z]
    model = SwitchingGaussian(MEANS, 0.2, LOG_PRIOR)
    expected = -(log_normal(x, MEANS[z], 0.2) + LOG_PRIOR[z]).mean()
    torch.testing.assert_close(clamped_loss(model, x, one_hot), expected)
    trace = poutine.trace(model).get_trace(x, one_hot)
    assert trace.nodes["z"]["is_observed"]


def test_pyro_enumerates_it(x: Tensor) -> None:
    """Its task enters by matmul, so Pyro's own (K, 1, 1, K) enumeration gives the log evidence."""
    model = SwitchingGaussian(MEANS, 0.2, LOG_PRIOR)

    def empty(x: Tensor) -> None:
        pass

    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    loss = elbo.loss(config_enumerate(model), empty, x)
    expected = Enumeration()(model, x).log_evidence
    assert expected is not None
    assert -loss == pytest.approx(float(expected.sum()), abs=1e-10)


def test_it_moves_to_another_dtype(x: Tensor) -> None:
    model = SwitchingGaussian(MEANS.float(), 0.2, LOG_PRIOR.float()).double()
    assert OneStepGradient()(model, x).logits().dtype == F64


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_sigma_is_positive(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be positive"):
        SwitchingGaussian(MEANS, sigma)


def test_the_prior_fits_the_means() -> None:
    with pytest.raises(ValueError, match=r"log_prior has shape \(2,\), expected \(3,\)"):
        SwitchingGaussian(MEANS, 0.1, torch.zeros(2))


def test_nothing_is_registered_with_pyro(x: Tensor) -> None:
    SwitchingGaussian(MEANS, 0.2)(x)
    assert not pyro.get_param_store().keys()
