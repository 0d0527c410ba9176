"""What the library answers on a device is what it answers on the CPU."""

import copy

import numpy as np
import pyro
import pytest
import torch
from fake_device import FakeDeviceTensor
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro_models import TASK, normal, random_log_prior
from torch import nn

from gbi_pyro import AutoTaskGuide, clamped_loss, to_inference_data
from gbi_pyro.inference import (
    BayesFilter,
    CoordinateGradient,
    Enumeration,
    IterativeGradient,
    OneStepGradient,
    OnlineGradient,
    Recogniser,
    TaskChain,
    TaskPrior,
    calibrate,
    fit_centroids,
    hmm_posterior,
    hsmm_posterior,
    log_likelihoods,
    stepwise,
)
from gbi_pyro.learning import GradientEM, match_labels
from gbi_pyro.metrics import reliability_table, summarise
from gbi_pyro.models import (
    AffineHeadAutoencoder,
    ConditionedAutoencoder,
    LanguageLSTM,
    LanguageTransformer,
    SequenceLSTM,
    pca_basis,
)

N, K, D = 24, 3, 2


class Clusters(nn.Module):
    """x_i ~ Normal(mu_z, 1), a task for each element."""

    def __init__(self, generator):
        super().__init__()
        self.means = nn.Parameter(2 * normal(generator, K, D, dtype=torch.float32))
        self.register_buffer("log_prior", random_log_prior(generator, K).float())

    def forward(self, x, z=None):
        with pyro.plate("sequence", len(x)):
            prior = pyro.distributions.OneHotCategorical(logits=self.log_prior)
            z = pyro.sample("z", prior, obs=z, infer=TASK)
            pyro.sample("x", pyro.distributions.Normal(z @ self.means, 1.0).to_event(1), obs=x)


@pytest.fixture
def clusters(generator):
    """A model and data, both on the CPU."""
    return Clusters(generator), normal(generator, N, D, dtype=torch.float32)


def both(device, model, *args):
    """Give the model and data on the CPU, and copies of them on the device."""
    there = copy.deepcopy(model).to(device)
    return (model, *args), (there, *(a.to(device) for a in args))


def assert_same(there, here, tolerance=1e-5):
    """Compare an answer of the device with that of the CPU."""
    assert there.device.type != "cpu"
    np.testing.assert_allclose(there.detach().cpu(), here.detach(), rtol=tolerance, atol=tolerance)


INFERENCES = {
    "one step": OneStepGradient(),
    "second order": OneStepGradient(order=2),
    "enumeration": Enumeration(),
    "iterative": IterativeGradient(5, 0.1, "adam"),
    "mean field": CoordinateGradient(),
}


@pytest.mark.parametrize("name", INFERENCES)
def test_inferences_agree(name, clusters, device):
    here, there = both(device, *clusters)
    assert_same(INFERENCES[name](*there).logits(), INFERENCES[name](*here).logits())


NETWORKS = {
    "lstm": lambda g: (SequenceLSTM(K, 5, generator=g), torch.randn(2, 6, generator=g)),
    "language": lambda g: (
        LanguageLSTM(7, K, 4, 5, generator=g),
        torch.randint(7, (2, 6), generator=g),
    ),
    "language, head": lambda g: (
        LanguageLSTM(7, K, 4, 5, inout=True, conditioning="affine", generator=g),
        torch.randint(7, (2, 6), generator=g),
    ),
    "transformer": lambda g: (
        LanguageTransformer(7, K, 8, 1, 2, longest=8, generator=g),
        torch.randint(7, (2, 6), generator=g),
    ),
    "paper's images": lambda g: (
        ConditionedAutoencoder((1, 4, 4), K, latent_size=2, hidden_size=8, generator=g),
        torch.rand(5, 1, 4, 4, generator=g),
    ),
    "affine head": lambda g: (
        AffineHeadAutoencoder(
            pca_basis(torch.rand(20, 1, 4, 4, generator=g), 4), K, latent_size=2, generator=g
        ),
        torch.rand(5, 1, 4, 4, generator=g),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_in_training_and_inference(name, generator, device):
    network, x = NETWORKS[name](generator)
    network.eval()
    z = OneStepGradient()(network, x).mode()
    here, there = both(device, network, x, torch.nn.functional.one_hot(z, K).float())
    for infer in (OneStepGradient(), Enumeration(check=False)):
        assert_same(infer(*there[:2]).logits(), infer(*here[:2]).logits())
    losses = [clamped_loss(*given) for given in (here, there)]
    assert_same(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for p, q in zip(network.parameters(), there[0].parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            assert_same(q.grad, p.grad)


def test_steps_of_a_recurrent_network_agree(generator, device):
    network = SequenceLSTM(K, 5, generator=generator).eval()
    here, there = both(device, network, torch.randn(2, 6, generator=generator))
    chain = TaskChain.sticky(K, 0.1)
    infer = BayesFilter(OneStepGradient(), chain)
    found = [infer(stepwise(*given)) for given in (there, here)]
    assert_same(found[0].logits(), found[1].logits())
    assert_same(*(log_likelihoods(OneStepGradient()(stepwise(*g))) for g in (there, here)))


def test_a_stream_moves_to_the_network(generator, device):
    """The stream and the start may come from the CPU."""
    network = SequenceLSTM(K, 5, generator=generator).eval()
    x, start = torch.randn(2, 6, generator=generator), torch.full((2, K), 1 / K)
    here, there = both(device, network)
    for space in ("free", "simplex"):
        online = OnlineGradient(space=space)
        assert_same(online(*there, x, start).values, online(*here, x, start).values)


@pytest.mark.parametrize("exact", [hmm_posterior, hsmm_posterior])
def test_exact_chains_agree(exact, generator, device):
    log_emission = normal(generator, 2, 9, K)
    chain = TaskChain.sticky(K, 0.2)
    durations = [random_log_prior(generator, K, 4)] if exact is hsmm_posterior else []
    args = chain.log_initial, chain.log_transition  # they stay on the CPU
    there = exact(*args, log_emission.to(device), *durations)
    here = exact(*args, log_emission, *durations)
    assert_same(there.log_smoothed, here.log_smoothed, 1e-9)
    assert_same(there.viterbi, here.viterbi)


def test_a_calibration_lies_on_the_cpu_and_serves_both(clusters, device):
    here, there = both(device, *clusters)
    fits = [calibrate(OneStepGradient()(*g), Enumeration()(*g)) for g in (here, there)]
    mixed = calibrate(OneStepGradient()(*there), Enumeration()(*here))
    for fit in (*fits[1:], mixed):
        assert fit.offsets.device.type == "cpu"
        np.testing.assert_allclose(fit.offsets, fits[0].offsets, atol=1e-4)
        q = [OneStepGradient(calibration=fit)(*g).logits() for g in (there, here)]
        assert_same(*q)


def test_draws_by_a_generator_of_the_cpu_are_the_same(clusters, device):
    here, there = both(device, *clusters)
    draws = [
        Enumeration()(*g).sample(50, generator=torch.Generator().manual_seed(3))["z"]
        for g in (there, here)
    ]
    assert draws[0].device.type == device.type
    assert torch.equal(draws[0].cpu(), draws[1])


def test_paths_are_drawn_on_the_device(generator, device):
    """By another algorithm than on the CPU: their probabilities are the same, not the draws."""
    network = SequenceLSTM(K, 5, generator=generator).eval()
    here, there = both(device, network, torch.randn(2, 6, generator=generator))
    infer = BayesFilter(OneStepGradient(), TaskChain.sticky(K, 0.1), output="smoothed")
    found, exact = (infer(stepwise(*given)) for given in (there, here))
    paths = found.sample(9, generator=torch.Generator().manual_seed(3))["z"]
    assert_same(found.log_prob({"z": paths}), exact.log_prob({"z": paths.cpu()}))


@pytest.mark.parametrize("prior", [None, "learned"])
def test_expectation_maximisation_agrees(prior, clusters, device):
    labels = torch.full((N,), -1).scatter(0, torch.arange(3), torch.arange(3))
    objectives = []
    for model, x in both(device, *clusters):
        optim = torch.optim.SGD(model.parameters(), lr=0.1)
        own = TaskPrior(torch.full((K,), 1 / K).log(), learn=True) if prior else None
        em = GradientEM(model, Enumeration(), optim, prior=own)
        objectives.append([em.step(x, labels=labels) for _ in range(3)])
        em.collapse(x)
    np.testing.assert_allclose(objectives[1], objectives[0], rtol=1e-5)


def test_pyro_s_own_tools_take_the_guide(clusters, device):
    model, x = both(device, *clusters)[1]
    guide = AutoTaskGuide(model)
    drawn = Predictive(model, guide=guide, num_samples=3)(x)
    assert drawn["z"].shape[:2] == (3, N)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert np.isfinite(svi.step(x))


def test_metrics_and_exports_are_on_the_cpu(clusters, device, generator):
    here, there = both(device, *clusters)
    exact = [Enumeration()(*g) for g in (here, there)]
    labels = torch.randint(K, (N,), generator=generator)
    for y in (labels, labels.to(device)):
        assert summarise(exact[1].logits(), y) == pytest.approx(
            summarise(exact[0].logits(), y), rel=1e-4
        )
        reliability_table(exact[1].logits(), y)
        match_labels(exact[1].logits(), y)
    data = to_inference_data(
        OneStepGradient()(*there),
        model=there[0],
        args=there[1:],
        labels={"z": labels.to(device)},
        exact=exact[1],
        num_draws=4,
        generator=torch.Generator().manual_seed(0),
    )
    assert "posterior" in data
    assert len(exact[1].to_dataframe()) == N


def test_amortised_inferences_stay_with_their_network(clusters, device, generator):
    here, there = both(device, *clusters)
    encoder = nn.Linear(D, K)
    nn.init.normal_(encoder.weight, generator=generator)
    nn.init.zeros_(encoder.bias)
    found = [
        Recogniser(copy.deepcopy(encoder).to(x.device))(model, x).logits()
        for model, x in (there, here)
    ]
    assert_same(*found)
    labels = torch.arange(N) % K
    centroids = [fit_centroids(nn.Identity(), labels, K, x) for _, x in (there, here)]
    assert_same(*(c(m, x).logits() for c, (m, x) in zip(centroids, (there, here), strict=True)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x + torch.ones(3), "same device"),
        (lambda x: torch.stack([x, torch.zeros(3)]), "same device"),
        (lambda x: torch.ones(3)[x.long()], "indices"),
        (lambda x: torch.rand(3, device=x.device, generator=torch.Generator()), "generator"),
        (lambda x: x.numpy(), "numpy"),
    ],
)
def test_the_fake_device_raises_what_cuda_raises(wrong, message, fake_device):
    with pytest.raises((RuntimeError, TypeError), match=message):
        wrong(torch.zeros(3).to(fake_device))


def test_the_fake_device_takes_what_cuda_takes(fake_device):
    x = torch.arange(3.0).to(fake_device)
    assert isinstance(x * torch.tensor(2.0), FakeDeviceTensor)  # a number of the CPU
    assert x[torch.tensor([2, 0])].tolist() == [2.0, 0.0]  # an index of the CPU
