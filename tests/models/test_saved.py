"""Networks that were written come back bit by bit, or are refused in words."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gbi_pyro.files import Manifest
from gbi_pyro.models import (
    AffineHeadAutoencoder,
    ConditionedAutoencoder,
    ConditionedDecoder,
    EncoderClassifier,
    LanguageLSTM,
    SequenceLSTM,
    load_network,
    pca_basis,
    save_networks,
)

NETWORKS = {
    "plain": lambda: SequenceLSTM(None, 5),
    "task": lambda: SequenceLSTM(3, 5, conditioning="affine", log_prior=torch.ones(3) / 3),
    "words": lambda: LanguageLSTM(11, 3, 4, 5, inout=True),
    "paper": lambda: ConditionedAutoencoder((1, 4, 4), 3, latent_size=2, hidden_size=5),
    "decoder": lambda: ConditionedDecoder((4, 4), num_tasks=3, likelihood="bernoulli"),
    "classifier": lambda: EncoderClassifier((4, 4), 3, generator=torch.Generator()),
    "affine": lambda: AffineHeadAutoencoder(pca_basis(torch.rand(20, 4, 4), 3), 2, hidden_size=8),
}


def write(folder: Path, **networks: nn.Module) -> Path:
    save_networks(folder, networks)
    Manifest.write(folder)
    return folder


class Tied(nn.Module):
    """Two layers with one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("row", self.first.weight.detach()[1])  # a view of the same numbers


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_library_are_rebuilt_alone(tmp_path: Path, name: str) -> None:
    network = NETWORKS[name]()
    folder = write(tmp_path, net=network, other=nn.Linear(2, 2))
    state = torch.get_rng_state()
    found = load_network(folder, "net")
    assert torch.equal(torch.get_rng_state(), state)
    assert type(found) is type(network)
    assert same(found, network)
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())


def test_a_rebuilt_network_computes_the_same(tmp_path: Path) -> None:
    network, x = SequenceLSTM(2, 6), torch.randn(3, 5)
    found = load_network(write(tmp_path, net=network), "net")
    assert isinstance(found, SequenceLSTM)
    z = network.requires_grad_(False).uniform(3, 5)
    assert torch.equal(found.mean(x, z), network.mean(x, z))


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    network, into = Tied(), Tied()
    folder = write(tmp_path, net=network)
    about = json.loads((folder / "weights.json").read_text())
    assert about["tied"] == {"net/second.weight": "net/first.weight"}
    assert "net/second.weight" not in about["tensors"]
    found = load_network(folder, "net", into=into)
    assert found is into
    assert same(found, network)
    assert into.first.weight is into.second.weight


def test_files_have_the_mode_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    write(tmp_path, net=nn.Linear(2, 2))
    modes = {(tmp_path / name).stat().st_mode for name in ("other", "weights.safetensors")}
    assert len(modes) == 1
    assert os.stat(tmp_path / "weights.json").st_mode in modes


@pytest.mark.parametrize(
    ("name", "into", "words"),
    [
        ("other", None, "should be a network of .*, among linear, lstm; got 'other'"),
        (
            "linear",
            None,
            "should be a network of this gbi_pyro .* got a torch.*Linear .*: build it",
        ),
        ("linear", nn.Linear(2, 3), r"weights of Linear; got others: bias .* for .*: build"),
        ("linear", nn.Linear(2, 2, bias=False), "bias .* for absent"),
        ("linear", nn.Linear(2, 2).double(), "float32.* for .*float64"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, name: str, into: nn.Module | None, words: str
) -> None:
    folder = write(tmp_path, linear=nn.Linear(2, 2), lstm=SequenceLSTM(2, 4))
    with pytest.raises(ValueError, match=words):
        load_network(folder, name, into=into)


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.json", "run.json"])
def test_altered_files_are_refused(tmp_path: Path, file: str) -> None:
    folder = write(tmp_path, net=SequenceLSTM(2, 4))
    raw = (folder / file).read_bytes()
    (folder / file).write_bytes(raw.replace(b"2", b"3", 1))
    with pytest.raises(ValueError, match=f"{file}"):
        load_network(folder, "net")


def test_a_class_outside_the_library_is_never_imported(tmp_path: Path) -> None:
    folder = write(tmp_path, net=SequenceLSTM(2, 4))
    about = json.loads((folder / "weights.json").read_text())
    outside = ("os:system", "gbi_pyro.cli:os.system", "gbi_pyro_other:x", "gbi_pyro.none:x")
    for place in (*outside, "gbi_pyro.cli:fail", "gbi_pyro.files:Manifest"):
        about["networks"]["net"]["class"] = place
        (folder / "weights.json").write_text(json.dumps(about))
        Manifest.write(folder)
        with pytest.raises(ValueError, match=f"got a {place}"):
            load_network(folder, "net")


def test_arguments_are_those_of_the_constructor_with_defaults() -> None:
    network = SequenceLSTM(4)
    assert network.arguments is not None
    assert network.arguments["num_tasks"] == 4
    assert network.arguments["hidden_size"] == 64
    assert "generator" not in network.arguments
    with pytest.raises(TypeError, match="unexpected keyword"):
        SequenceLSTM(width=3)  # type: ignore[call-arg]
    tensor: Tensor = network.log_prior
    assert tensor.shape == (4,)
