import pyro
import pyro.distributions as dist
import pytest
import torch

from gbi_pyro import TaskChain, TaskSiteError, clamped_loss, stepwise
from gbi_pyro.data import SwitchingStream
from gbi_pyro.metrics import task_gain, task_transfer
from gbi_pyro.models import SequenceLSTM, SwitchingGaussian


def model_with(weight):
    def model(x):
        with pyro.plate("trial", len(x)):
            prior = dist.OneHotCategorical(torch.tensor([0.2, 0.8]).to(x))
            z = pyro.sample("z", prior, infer={"task": True})
            mean = weight * (z @ torch.tensor([-1.0, 1.0]).to(x))
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    return model


def test_the_gain_is_that_of_the_closed_form(generator):
    tasks = torch.randint(2, (50,), generator=generator)
    x = torch.randn(50, generator=generator, dtype=torch.float64)
    z = torch.nn.functional.one_hot(tasks, 2).double()
    mean = 2.0 * tasks - 1
    expected = ((x**2 - (x - mean) ** 2) / (2 * 0.5**2)).mean().item()
    assert task_gain(model_with(1.0), {"z": z}, x) == pytest.approx(expected, rel=1e-12)


def test_an_ignored_task_gains_nothing():
    z = torch.eye(2, dtype=torch.float64)
    x = torch.tensor([0.3, -2.0], dtype=torch.float64)
    assert task_gain(model_with(0.0), {"z": z}, x) == 0.0


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_transfer_is_the_difference_of_two_forecasts(sigma, generator):
    """Forward recursion by hand; the three forms agree in the mean of many steps."""
    means, hazard = torch.tensor([0.2, 0.8], dtype=torch.float64), 0.05
    stay = torch.tensor([[1 - hazard, hazard], [hazard, 1 - hazard]], dtype=torch.float64)
    z = (torch.rand(30, 200, generator=generator) < hazard).long().cumsum(1) % 2
    x = means[z] + sigma * torch.randn(30, 200, generator=generator, dtype=torch.float64)
    log_lik = dist.Normal(means, sigma).log_prob(x.unsqueeze(-1))
    predicted = torch.full((30, 2), 0.5, dtype=torch.float64)
    terms, ceiling = [], []
    for t in range(200):
        evidence = (predicted.log() + log_lik[:, t]).logsumexp(-1)
        terms.append(log_lik[:, t].gather(-1, z[:, t, None]).squeeze(-1) - evidence)
        ceiling.append(torch.special.entr(predicted).sum(-1))
        predicted = (predicted.log() + log_lik[:, t]).softmax(-1) @ stay
    model = SwitchingGaussian(means, sigma)
    one_hot = {"z": torch.nn.functional.one_hot(z, 2).double()}
    chain = TaskChain.sticky(2, hazard=hazard)
    found = task_transfer(model, one_hot, x, chain=chain)
    steps = torch.stack(terms, 1)
    assert found.achieved == pytest.approx(steps.mean().item(), abs=1e-6)  # a chain in float32
    assert found.ceiling == pytest.approx(torch.stack(ceiling).mean().item(), abs=1e-6)
    assert found.num_steps == 6000
    by_sequence = steps.mean(1)
    assert abs(found.believed - found.achieved) < 4 * by_sequence.std().item() / 30**0.5
    assert 0 < found.believed < found.ceiling
    gain = task_gain(model, one_hot, x)
    assert gain > 2 * found.achieved  # which compares with a forecast that nobody would make


def test_a_task_that_changes_nothing_is_worth_nothing():
    z, x = {"z": torch.eye(2, dtype=torch.float64)}, torch.tensor([0.3, -2.0], dtype=torch.float64)
    found = task_transfer(model_with(0.0), z, x)
    assert (found.achieved, found.believed) == pytest.approx((0, 0), abs=1e-15)


def test_wrong_tasks_achieve_less_than_nothing():
    x = torch.tensor([1.0, -1.0], dtype=torch.float64)
    right = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert task_transfer(model_with(1.0), {"z": right}, x).achieved > 0
    assert task_transfer(model_with(1.0), {"z": right.flip(-1)}, x).achieved < 0


@pytest.mark.parametrize(("kind", "sigma"), [("true", 0.1), ("true", 0.3), ("shuffled", 0.3)])
def test_a_network_given_its_tasks_gets_all_that_they_are_worth(kind, sigma, generator):
    stream = SwitchingStream(sigma=sigma)
    chain = TaskChain(stream.log_initial, stream.log_transition)

    def draw(num_sequences):
        batch = stream.sample(num_sequences, 100, generator)
        z = batch.one_hot(2)
        if kind == "shuffled":
            order = torch.randperm(batch.z.numel(), generator=generator)
            z = z.flatten(0, 1)[order].view_as(z)
        return batch.x, z

    network = SequenceLSTM(2, 32, generator=generator)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(80):
        optimiser.zero_grad()
        clamped_loss(network, *draw(32)).backward()
        optimiser.step()
    x, z = draw(96)
    achieved = task_transfer(stepwise(network, x, tasks={"z": z}), {"z": z}, chain=chain).achieved
    if kind == "shuffled":
        assert abs(achieved) < 0.001
    else:
        exact = SwitchingGaussian(torch.tensor(stream.means), stream.sigma)
        expected = task_transfer(exact, {"z": z}, x, chain=chain).achieved
        assert achieved == pytest.approx(expected, rel=0.03)


def test_masked_steps_are_not_counted():
    x = torch.tensor([1.0, -1.0, 5.0], dtype=torch.float64)
    z = torch.nn.functional.one_hot(torch.tensor([1, 0, 1]), 2).double()

    def masked(x):
        with pyro.poutine.mask(mask=torch.tensor([True, True, False])):
            model_with(1.0)(x)

    assert task_transfer(masked, {"z": z}, x) == task_transfer(model_with(1.0), {"z": z[:2]}, x[:2])


def test_tasks_that_do_not_fit_are_named():
    x = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(TaskSiteError, match="'w' is not a task site"):
        task_transfer(model_with(1.0), {"w": torch.eye(2)}, x)
    with pytest.raises(ValueError, match=r"one-hot tasks \(2, 2\); got \(2,\)"):
        task_transfer(model_with(1.0), {"z": torch.zeros(2)}, x)
