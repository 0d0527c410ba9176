"""Recorded activity: one tensor for each run of a module, and nothing left behind."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from gbi_pyro import Enumeration, OneStepGradient, stepwise
from gbi_pyro.models import SequenceLSTM
from gbi_pyro.models.conditioning import CONDITIONERS, Conditioning
from gbi_pyro.representation import record


def recorded_model(x: Tensor) -> None:
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
        pyro.sample("x", dist.Normal(NETWORK(z).squeeze(-1), 1.0), obs=x)


NETWORK = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


@pytest.mark.parametrize("infer", [OneStepGradient(), Enumeration()])
def test_one_recording_for_each_pass(infer: OneStepGradient | Enumeration) -> None:
    weights = [p.detach().clone() for p in NETWORK.parameters()]
    with record(NETWORK, "1") as activity:
        found = infer(recorded_model, torch.zeros(3))
    assert len(activity["1"]) == found.passes.forward + found.passes.check
    assert all(a.shape == (3, 4) and not a.requires_grad for a in activity["1"])
    assert not any(m._forward_hooks for m in NETWORK.modules())
    assert all(torch.equal(p, w) for p, w in zip(NETWORK.parameters(), weights, strict=True))
    assert all(p.grad is None for p in NETWORK.parameters())


def test_without_names_it_records_what_has_no_children() -> None:
    with record(NETWORK) as activity:
        NETWORK(torch.zeros(5, 2))
    assert {name: len(found) for name, found in activity.items()} == {"0": 1, "1": 1, "2": 1}


def test_of_a_tuple_the_first_tensor() -> None:
    network = nn.LSTM(3, 2, batch_first=True)
    with record(network, "") as activity:
        out, _ = network(torch.zeros(4, 6, 3))
    assert torch.equal(activity[""][0], out)


def test_nothing_is_left_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="mine"), record(NETWORK, "0"):
        raise RuntimeError("mine")
    assert not any(m._forward_hooks for m in NETWORK.modules())


def test_an_unknown_name_lists_the_names() -> None:
    names = r"'3' is no module of Sequential; .* \['0', '1', '2'\]"
    with pytest.raises(ValueError, match=names), record(NETWORK, "3"):
        pass


def test_a_module_without_a_tensor_is_named() -> None:
    class Words(nn.Module):
        def forward(self) -> str:
            return "nothing"

    network = Words()
    with pytest.raises(TypeError, match="module '' returned a str"), record(network, ""):
        network()


@pytest.mark.parametrize("conditioning", CONDITIONERS)
@pytest.mark.parametrize("names", [("lstm",), ()])
def test_a_network_run_past_its_modules_is_not_silent(
    names: tuple[str, ...], conditioning: Conditioning, generator: torch.Generator
) -> None:
    """The steps of ``stepwise`` are taken by folded weights; the whole run is recorded."""
    network = SequenceLSTM(2, hidden_size=4, conditioning=conditioning, generator=generator)
    x = torch.randn(2, 6, generator=generator)
    words = r"nothing was recorded of \[.*'lstm'.*network.mean\(x, z\)"
    steps = stepwise(network, x)
    with pytest.warns(UserWarning, match=words), record(network, *names):
        q = OneStepGradient()(steps).probs()
    with record(network, "lstm") as activity:
        network.mean(x, q)
    assert len(activity["lstm"]) == 1
