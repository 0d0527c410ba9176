"""Exports of chains and of masked steps: drawn paths, and no task where there is no step."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from gbi_pyro import BayesFilter, Enumeration, TaskChain, hmm_posterior, plots, to_inference_data
from gbi_pyro.export import GivenDraws

HALF = torch.tensor([0.5, 0.5]).log()
STICKY = torch.tensor([[0.95, 0.05], [0.05, 0.95]]).log()
CHAIN = TaskChain(HALF, STICKY)


def sessions(x: Tensor, real: Tensor) -> None:
    with pyro.plate("session", len(x), dim=-2), pyro.plate("time", x.shape[1], dim=-1):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
        with poutine.mask(mask=real):
            pyro.sample("x", dist.Normal(z @ torch.tensor([-0.3, 0.3]), 1.0), obs=x)


def test_exported_draws_of_a_chain_switch_as_its_paths_do(generator: torch.Generator) -> None:
    emission = 0.5 * torch.randn(1, 200, 2, generator=generator)
    chain = hmm_posterior(HALF, STICKY, emission)
    drawn = to_inference_data(chain, num_draws=500, generator=generator).posterior["z"].values
    switches = (np.diff(drawn, axis=-1) != 0).sum(-1)
    again = (chain.paths.sample(500, generator).diff(dim=-1) != 0).sum(-1).double()
    error = math.sqrt(switches.var() / 500 + again.var().item() / 500)
    assert abs(switches.mean() - again.mean().item()) < 5 * error
    alone = 2 * (chain.log_smoothed[0, :-1, 0].exp() * chain.log_smoothed[0, 1:, 1].exp()).sum()
    assert switches.mean() < 0.8 * alone.item()  # what draws step by step would have


def test_there_is_no_task_where_there_is_no_step(generator: torch.Generator) -> None:
    x = torch.randn(2, 8, generator=generator)
    real = torch.arange(8) < torch.tensor([[8], [5]])
    real[0, 2] = False  # missing, and still a step
    found = BayesFilter(Enumeration(), CHAIN, output="smoothed")(sessions, x, real)
    data = to_inference_data(found, sessions, (x, real))
    padding = ~(torch.arange(8) < torch.tensor([[8], [5]])).numpy()
    for ids in data.posterior["z"].values[0]:
        assert ((ids == -1) == padding).all()
    probs = data.task_probs["z"].values
    assert (np.isnan(probs[..., 0]) == padding).all()
    np.testing.assert_allclose(probs[~padding], found.probs().numpy()[~padding])
    line = plots.task_probs(data, sequence=1).lines[-1]
    assert np.isfinite(line.get_ydata()).sum() == 5  # nothing is drawn beyond the session


def test_chains_are_not_enumerated_as_independent_elements() -> None:
    with pytest.raises(TypeError, match=r"infer should be Enumeration.*BayesFilter"):
        GivenDraws({}, infer=BayesFilter(Enumeration(), CHAIN))  # type: ignore[arg-type]
