"""A shortlist on a trained network: exact scores of all tasks are the exact posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from gbi_pyro.problems import Drawn, Problem
from studies.bench.methods import CALIBRATED, EXACT, ONE_STEP, rescored
from studies.bench.networks import OnNetwork, _rows, measure

CODES = 2 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def model(x):
    with pyro.plate("image", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(6)), infer={"task": True})
        pyro.sample("x", dist.Normal((z @ CODES).tanh(), 0.7).to_event(1), obs=x)


def draw(n, generator):
    z = torch.randint(6, (n,), generator=generator)
    return Drawn((CODES[z].tanh() + 0.7 * torch.randn(n, 4, generator=generator),), {"z": z})


@pytest.fixture(scope="module")
def ways():
    problem = Problem("six", model, draw)
    return measure(problem, problem, 0, cases=300, batch=100, fitted=400)


def test_more_exact_scores_are_never_worse(ways):
    for base in (ONE_STEP, CALIBRATED):
        kls = [ways[name].divergence for name in (base, rescored(base, 3), rescored(base, 5))]
        assert kls == sorted(kls, reverse=True)
    assert ways[CALIBRATED].divergence < ways[ONE_STEP].divergence
    assert ways[EXACT].divergence == pytest.approx(0, abs=1e-12)


def test_passes_are_those_of_a_case(ways):
    assert [ways[n].passes for n in (ONE_STEP, rescored(ONE_STEP, 3), EXACT)] == [2, 5, 6]


def test_the_targets_are_those_of_the_shortlists_of_one_step(ways):
    rows = list(_rows("six", [OnNetwork(ways, 300, 1.0)]))
    targets = [row.what for row in rows if row.target is not None]
    assert targets == [
        f"six, trained network: {rescored(ONE_STEP, 5)}: KL(exact || it), nats",
        f"six, trained network: {rescored(ONE_STEP, 3)}: accuracy less than that of the {EXACT}",
    ]
