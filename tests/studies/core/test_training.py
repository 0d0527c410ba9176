import json

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
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(5, checkpoint=path, stop=stop)
    resumed, seen = train(5, checkpoint=path)
    assert seen[0] == stop
    assert_same(whole, resumed)


def test_a_checkpoint_of_another_training_is_not_taken_up(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    train(2, checkpoint=path, key="another")
    fresh, seen = train(5, checkpoint=path, key="a")
    assert seen[0] == 0
    assert_same(fresh, train(5)[0])


def test_a_finished_training_is_not_done_again(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    first, _ = train(5, checkpoint=path)
    again, seen = train(5, checkpoint=path)
    assert seen == [5]
    assert_same(first, again)


def test_training_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    train(1)
    assert torch.equal(state, torch.get_rng_state())


def test_the_checkpoint_says_what_it_is(tmp_path):
    from safetensors import safe_open

    path = tmp_path / "checkpoint.safetensors"
    train(1, checkpoint=path, key="digits, seed 3")
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert (about["key"], about["epoch"]) == ("digits, seed 3", 1)
