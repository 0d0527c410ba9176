import pytest
import torch

from gbi_pyro.representation import linear_probe


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
