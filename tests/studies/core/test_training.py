import json
import math
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn

from studies.core.training import train_epochs


class Noisy(nn.Module):
    """A network whose training draws noise from the global random state."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))

    def loss(self, x):
        return self.layers(x).square().mean() + (self.layers[0].weight - 1).square().sum()


X = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


def batches(draw):
    return [(X[i],) for i in torch.randperm(len(X), generator=draw).split(8)]


def train(epochs, *, total=5, checkpoint=None, key="a", stop=None):
    module, seen = Noisy(), []
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=5 * total)

    def report(epoch):
        seen.append(epoch)
        if epoch == stop:
            raise KeyboardInterrupt

    train_epochs(
        module,
        module.loss,
        batches,
        optimiser,
        schedule,
        epochs=epochs,
        seed=3,
        checkpoint=checkpoint,
        key=key,
        report=report,
    )
    return {**module.state_dict()}, seen


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_training_ends_like_an_uninterrupted_one(tmp_path, stop):
    whole, _ = train(5)
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(KeyboardInterrupt):
        train(5, checkpoint=path, stop=stop)
    resumed, seen = train(5, checkpoint=path)
    assert seen[0] == stop
    assert_same(whole, resumed)


def test_a_checkpoint_of_another_training_is_not_taken_up(tmp_path):
    path = tmp_path / "checkpoint.npz"
    train(2, checkpoint=path, key="another")
    fresh, seen = train(5, checkpoint=path, key="a")
    assert seen[0] == 0
    assert_same(fresh, train(5)[0])


def test_a_finished_training_is_not_done_again(tmp_path):
    path = tmp_path / "checkpoint.npz"
    first, _ = train(5, checkpoint=path)
    again, seen = train(5, checkpoint=path)
    assert seen == [5]
    assert_same(first, again)


def test_training_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    train(1)
    assert torch.equal(state, torch.get_rng_state())


def test_the_checkpoint_says_what_it_is(tmp_path):
    path = tmp_path / "checkpoint.npz"
    train(1, checkpoint=path, key="digits, seed 3")
    with np.load(path) as file:
        about = json.loads(str(file["about"]))
    assert about["key"]["training"] == "digits, seed 3"
    assert about["key"]["versions"]["gbi-pyro"] == version("gbi-pyro")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: flipped(raw, len(raw) // 2)])
def test_a_damaged_checkpoint_is_set_aside_and_the_training_made_anew(tmp_path, capsys, damage):
    path = tmp_path / "checkpoint.npz"
    train(3, checkpoint=path)
    path.write_bytes(damage(path.read_bytes()))
    fresh, seen = train(5, checkpoint=path)
    assert seen[0] == 0
    assert_same(fresh, train(5)[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint.npz",
        "checkpoint.npz.damaged",
    ]
    assert capsys.readouterr().err.count("\n") == 1


def flipped(raw, byte):
    return raw[:byte] + bytes([raw[byte] ^ 1]) + raw[byte + 1 :]


def test_measurements_are_those_of_an_uninterrupted_training(tmp_path):
    """They are kept with the weights: a kill cannot come between the two."""

    def measured(checkpoint=None, stop=None):
        module, seen = Noisy(), []
        optimiser = torch.optim.AdamW(module.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimiser)

        def report(epoch):
            seen.append(epoch)
            if epoch == stop:
                raise KeyboardInterrupt

        kept = train_epochs(
            module,
            module.loss,
            batches,
            optimiser,
            schedule,
            epochs=3,
            seed=0,
            checkpoint=checkpoint,
            report=report,
            measure=lambda epoch, loss: [
                epoch,
                math.nan,
                loss,
                module.layers[0].weight.sum().item(),
            ],
        )
        return kept, seen

    whole, _ = measured()
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "a.npz", stop=2)
    resumed, seen = measured(tmp_path / "a.npz")
    assert seen == [2, 3]
    np.testing.assert_array_equal(whole, resumed)
