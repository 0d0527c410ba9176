import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import (
    BayesFilter,
    Enumeration,
    OneStepGradient,
    TaskChain,
    TaskSiteError,
    clamped_loss,
    hmm_posterior,
    hsmm_posterior,
    stepwise,
)
from gbi_pyro.data import BlockLaw, BoundedBlocks, FixedBlocks, GeometricBlocks, SwitchingStream
from gbi_pyro.inference import HMMPosterior
from gbi_pyro.models import SequenceLSTM, SwitchingGaussian

F64 = torch.float64
Infer = Enumeration | OneStepGradient
LAWS = [GeometricBlocks(0.1), FixedBlocks(4), BoundedBlocks(2, 6, 0.3)]
PRIORS = [None, torch.tensor([0.7, 0.1, 0.2], dtype=F64).log()]


def exact(stream: SwitchingStream, x: Tensor) -> HMMPosterior:
    return hsmm_posterior(
        stream.log_initial, stream.log_transition, stream.log_emission(x), stream.log_duration
    )


def model_of(stream: SwitchingStream, log_prior: Tensor | None = None) -> SwitchingGaussian:
    means = torch.tensor(stream.means, dtype=F64)
    return SwitchingGaussian(means, stream.sigma, log_prior)


def filters(infer: Infer, stream: SwitchingStream) -> dict[str, BayesFilter]:
    law = stream.log_initial, stream.log_transition
    chain = TaskChain(*law, log_duration=stream.log_duration)
    return {
        "filtered": BayesFilter(infer, chain),
        "predicted": BayesFilter(infer, chain, output="predicted"),
        "smoothed": BayesFilter(infer, chain, output="smoothed"),
    }


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("log_prior", PRIORS)
def test_enumeration_inside_the_filter_is_the_exact_posterior(
    law: BlockLaw, log_prior: Tensor | None, generator: torch.Generator
) -> None:
    """The chain's prior replaces the model's, whatever the latter is."""
    stream = SwitchingStream(means=(0.2, 0.5, 0.9), sigma=0.3, blocks=law)
    x = stream.sample(3, 40, generator, dtype=F64).x
    truth = exact(stream, x)
    for give, infer in filters(Enumeration(), stream).items():
        found = infer(model_of(stream, log_prior), x)
        expected = getattr(truth, f"log_{give}")
        torch.testing.assert_close(found.logits(), expected, rtol=0, atol=1e-10)
        assert found.method == f"enumeration, {give}"
        evidence = found.log_evidence
        assert evidence is not None
        torch.testing.assert_close(evidence, truth.log_evidence, rtol=0, atol=1e-10)
        assert found.passes.forward == 3


def test_without_a_duration_it_is_the_ordinary_chain(generator: torch.Generator) -> None:
    stream = SwitchingStream(means=(0.2, 0.8), sigma=0.3, blocks=GeometricBlocks(0.2))
    x = stream.sample(2, 30, generator, dtype=F64).x
    chain = TaskChain(stream.log_initial, stream.log_transition)
    found = BayesFilter(Enumeration(), chain)(model_of(stream), x)
    truth = hmm_posterior(stream.log_initial, stream.log_transition, stream.log_emission(x))
    torch.testing.assert_close(found.logits(), truth.log_filtered, rtol=0, atol=1e-10)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("means", "infer"),
    [((0.2, 0.8), OneStepGradient()), ((0.2, 0.3, 0.9), OneStepGradient(order=2))],
)
def test_one_step_inside_the_filter_is_exact_for_the_affine_model(
    law: BlockLaw, means: tuple[float, ...], infer: OneStepGradient, generator: torch.Generator
) -> None:
    """First order for two tasks, second order for three; the evidence lacks its constant only."""
    stream = SwitchingStream(means=means, sigma=0.2, blocks=law)
    x = stream.sample(3, 40, generator, dtype=F64).x
    truth = exact(stream, x)
    for give, chain in filters(infer, stream).items():
        found = chain(model_of(stream), x)
        expected = getattr(truth, f"log_{give}")
        torch.testing.assert_close(found.logits(), expected, rtol=0, atol=1e-10)
        assert found.log_evidence is None


@pytest.mark.parametrize("infer", [Enumeration(temperature=2.0), OneStepGradient(temperature=2.0)])
def test_tempered_steps_are_tempered_likelihoods_whatever_the_models_prior(
    infer: Infer, generator: torch.Generator
) -> None:
    """At temperature T the filter sees p(x | z)^(1 / T), without the prior of the model."""
    stream = SwitchingStream(means=(0.2, 0.8), sigma=0.3)
    x = stream.sample(2, 20, generator, dtype=F64).x
    model = model_of(stream, torch.tensor([0.9, 0.1], dtype=F64).log())
    found = BayesFilter(infer, TaskChain(stream.log_initial, stream.log_transition))(model, x)
    tempered = stream.log_emission(x) / 2
    truth = hmm_posterior(stream.log_initial, stream.log_transition, tempered)
    torch.testing.assert_close(found.logits(), truth.log_filtered, rtol=0, atol=1e-10)


def test_a_task_that_the_model_forbids_never_occurs(generator: torch.Generator) -> None:
    """The same as the chain with that task's emission forbidden."""
    stream = SwitchingStream(means=(0.2, 0.5, 0.9), sigma=0.3)
    x = stream.sample(2, 20, generator, dtype=F64).x
    model = model_of(stream, torch.tensor([0.5, 0.0, 0.5], dtype=F64).log())
    emission = stream.log_emission(x)
    emission[..., 1] = -torch.inf
    truth = hmm_posterior(stream.log_initial, stream.log_transition, emission)
    chain = TaskChain(stream.log_initial, stream.log_transition)
    found = BayesFilter(Enumeration(), chain)(model, x)
    torch.testing.assert_close(found.probs(), truth.log_filtered.exp(), rtol=0, atol=1e-10)
    evidence = found.log_evidence
    assert evidence is not None
    torch.testing.assert_close(evidence, truth.log_evidence, rtol=0, atol=1e-10)


def test_the_filter_knows_no_future_and_the_smoother_does(generator: torch.Generator) -> None:
    stream = SwitchingStream(means=(0.2, 0.8), sigma=0.3)
    network = SequenceLSTM(2, 8, generator=generator).double()
    x = stream.sample(2, 12, generator, dtype=F64).x
    later = x.clone()
    later[:, 8:] += 0.5
    for give, infer in filters(OneStepGradient(), stream).items():
        before, after = (infer(stepwise(network, d)).logits() for d in (x, later))
        seen = 9 if give == "predicted" else 8  # a prediction of step 8 has not seen it yet
        assert torch.equal(before[:, :seen], after[:, :seen]) is (give != "smoothed")
        assert not torch.equal(before[:, seen], after[:, seen])


def test_float32_models_take_a_float64_chain(generator: torch.Generator) -> None:
    stream = SwitchingStream()
    x = stream.sample(2, 10, generator).x
    model = SwitchingGaussian(torch.tensor(stream.means), stream.sigma)
    filtered = filters(Enumeration(), stream)["filtered"](model, x)
    assert filtered.logits().dtype == torch.float32
    truth = exact(stream, x.double()).log_filtered.exp()
    torch.testing.assert_close(filtered.probs().double(), truth, rtol=0, atol=1e-4)


def test_a_single_task_makes_no_chain() -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2) / 2), infer={"task": True})
        pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=x)

    chain = TaskChain.sticky(2, 0.5)
    with pytest.raises(TaskSiteError, match="declare a plate over time"):
        BayesFilter(OneStepGradient(), chain)(model, torch.tensor(0.3))


def test_a_chain_of_other_tasks_is_refused(generator: torch.Generator) -> None:
    chain = TaskChain.sticky(3, 0.1)
    model = SwitchingGaussian(torch.tensor([0.2, 0.8]), 0.1)
    with pytest.raises(ValueError, match="chain has 3 tasks, task site 'z' has 2"):
        BayesFilter(Enumeration(), chain)(model, torch.zeros(2, 4))


def test_what_it_gives_is_named() -> None:
    chain = TaskChain.sticky(2, 0.5)
    with pytest.raises(ValueError, match="output must be 'filtered', 'predicted' or 'smoothed'"):
        BayesFilter(Enumeration(), chain, output="smooth")


@pytest.mark.slow
def test_a_trained_network_filters_nearly_exactly() -> None:
    """The bar of the table: median over 5 seeds of KL(exact || one step), .001 nats per step."""
    stream = SwitchingStream()
    found = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        network = SequenceLSTM(2, generator=generator)
        # Adam moves a parameter by its rate: at 1e-2 the noise alone would need 160 steps from .5.
        weights = [p for p in network.parameters() if p is not network.log_sigma]
        groups = [{"params": weights}, {"params": [network.log_sigma], "lr": 5e-2}]
        optimiser = torch.optim.Adam(groups, lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 200)
        for _ in range(200):
            batch = stream.sample(32, 100, generator)
            loss = clamped_loss(network, batch.x, batch.one_hot(2))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        x = stream.sample(64, 100, generator).x
        log_p = exact(stream, x.double()).log_filtered
        one_step = filters(OneStepGradient(), stream)["filtered"](stepwise(network, x))
        difference = log_p - one_step.logits().double()
        found.append(float((log_p.exp() * difference).sum(-1).mean()))
    assert sorted(found)[2] <= 1e-3
