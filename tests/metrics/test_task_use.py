import pyro
import pyro.distributions as dist
import pytest
import torch

from gbi_pyro.metrics import linear_probe, task_gain


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


def test_a_probe_finds_what_is_linear_and_not_what_is_absent(generator):
    labels = torch.randint(2, (400,), generator=generator)
    noise = torch.randn(400, 3, generator=generator)
    latent = noise + 6.0 * labels.unsqueeze(-1)
    assert linear_probe(latent[:200], labels[:200], latent[200:], labels[200:]) > 0.97
    blind = linear_probe(noise[:200], labels[:200], noise[200:], labels[200:])
    assert abs(blind - 0.5) < 5 * 0.5 / 200**0.5


def test_a_label_for_every_row():
    with pytest.raises(ValueError, match="one label per row"):
        linear_probe(torch.zeros(3, 1), torch.zeros(2), torch.zeros(1, 1), torch.zeros(1))
