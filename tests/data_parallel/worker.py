"""One of the processes that train together: ``worker.py library|studies FOLDER``."""

import json
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from study_runs import without_figures
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from trainings import IMAGES, TRAININGS

from gbi_pyro.inference import Enumeration, OneStepGradient
from gbi_pyro.learning import GradientEM, clamped_loss, data_parallel_loss
from gbi_pyro.models import SequenceLSTM
from studies.core.runner import run
from studies.images.study import ImagesStudy
from studies.toy.config import ToyConfig
from studies.toy.study import ToyStudy

SIZES = {"equal": (0, 8, 16), "unequal": (0, 4, 16)}
UPDATES, K = 20, 3


def data(draw):
    """A batch of sequences, and their tasks."""
    x = torch.randn(16, 6, generator=draw)
    return x, torch.eye(K)[torch.randint(K, x.shape, generator=draw)]


def trained(loss, network, share, model):
    """Return the weights after some updates by the loss of a share of each batch."""
    pyro.clear_param_store()  # PyroModules of one name would share their parameters in it
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01)
    draw = torch.Generator().manual_seed(1)
    for _ in range(UPDATES):
        x, z = data(draw)
        optimiser.zero_grad()
        loss(model, x[share], z[share]).backward()
        optimiser.step()
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def network():
    return SequenceLSTM(K, 5, generator=torch.Generator().manual_seed(0))


class Masked(nn.Module):
    """x_i ~ Normal(mu_z, sigma), some of them masked: shares of equal size observe fewer values."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.zeros(K))

    def forward(self, x, z):
        with pyro.plate("trial", len(x)), pyro.poutine.mask(mask=x[:, 0] > 0):
            z = pyro.sample(
                "z", dist.OneHotCategorical(torch.ones(K) / K), obs=z[:, 0], infer={"task": True}
            )
            pyro.sample("x", dist.Normal(z @ self.means, 1.0), obs=x[:, 0])


class Scaled(PyroModule):
    """A model whose scale is a constrained parameter of the module."""

    def __init__(self):
        super().__init__()
        self.sigma = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

    def forward(self, x, z):
        with pyro.plate("trial", len(x)):
            z = pyro.sample(
                "z", dist.OneHotCategorical(torch.ones(K) / K), obs=z[:, 0], infer={"task": True}
            )
            pyro.sample("x", dist.Normal(z @ torch.arange(1.0 * K), self.sigma), obs=x[:, 0])


def compare(make, sizes, rank):
    """Return how far two processes end from one, and from each other."""
    own, alone = make(), make()
    share = slice(*SIZES[sizes][rank : rank + 2])
    found = trained(data_parallel_loss, own, share, DistributedDataParallel(own))
    wanted = trained(clamped_loss, alone, slice(None), alone)
    other = found.clone()
    torch.distributed.broadcast(other, 0)
    return (found - wanted).abs().max().item(), (found - other).abs().max().item()


def refused(call):
    try:
        call()
    except (TypeError, ValueError) as error:
        return str(error)
    return "accepted"


def with_param(x, z):
    with pyro.plate("trial", len(x)):
        z = pyro.sample(
            "z", dist.OneHotCategorical(torch.ones(K) / K), obs=z[:, 0], infer={"task": True}
        )
        sigma = pyro.param("sigma", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("x", dist.Normal(z @ torch.arange(1.0 * K), sigma), obs=x[:, 0])


class Beside(nn.Module):
    """A module that calls ``pyro.param``, which it does not own."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x, z):
        with_param(x + self.shift, z)


def library(_folder, rank):
    """What the library finds."""
    x, z = data(torch.Generator().manual_seed(2))
    made = {"lstm": network, "masked": Masked, "scaled": Scaled}
    parallel, beside, empty = map(DistributedDataParallel, (network(), Beside(), Masked()))
    sgd = torch.optim.SGD(parallel.parameters(), lr=0.1)
    steps = [OneStepGradient()(m, x).logits() for m in (parallel, parallel.module)]
    return {
        **{f"{n}, {s}": compare(make, s, rank) for n, make in made.items() for s in SIZES},
        "param": refused(lambda: data_parallel_loss(beside, x, z)),
        "bare": refused(lambda: data_parallel_loss(network(), x, z)),
        "nothing": refused(lambda: data_parallel_loss(empty, -x.abs(), z)),
        "em": refused(lambda: GradientEM(parallel, Enumeration(), sgd)),
        "one step": torch.equal(*steps),
    }


def studies(folder, _rank):
    """The mean weights of networks of studies, trained with and without an interruption."""
    found = {name: train(folder) for name, train in TRAININGS.items()}
    image_study, toy = without_figures(ImagesStudy(IMAGES)), ToyStudy(ToyConfig())
    run(image_study, folder / "images")
    found["jobs"] = refused(lambda: run(image_study, folder / "images", jobs=2))
    found["toy"] = refused(lambda: run(toy, folder / "toy"))
    return found


def main():
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    what, folder = sys.argv[1], Path(sys.argv[2])
    found = {"library": library, "studies": studies}[what](folder, rank)
    (folder / f"{what}-{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
