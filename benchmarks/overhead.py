"""What a call costs beside its arithmetic: one step on a tiny network, against the same by hand."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from benchmarks.rows import many, ratio_rows
from gbi_pyro import OneStepGradient
from studies.core.table import Row, Target

TASKS, CALLS = 3, 20
LIMIT = 3.3


class Tiny(nn.Module):
    """A perceptron 3-32-2 that is given the task alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(TASKS, 32), nn.Tanh(), nn.Linear(32, 2))
        self.register_buffer("log_prior", torch.zeros(TASKS))

    def forward(self, x: Tensor) -> None:
        """Run the Pyro model."""
        with pyro.plate("case", len(x)):
            prior = dist.OneHotCategorical(logits=self.log_prior)
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x)


def overhead(seconds: float) -> list[Row]:
    """Compare three ways to the same posterior, batch 1 and 100.

    By hand: the network, ``Normal.log_prob`` without torch's checks and ``torch.autograd.grad``.
    Pyro's trace: the model under ``poutine.condition`` and ``poutine.trace``, its log probability
    and ``torch.autograd.grad``; what any way through Pyro costs.

    Args:
        seconds: for each batch.
    """
    model, infer, rows = Tiny().eval(), OneStepGradient(), []

    def posterior(q: Tensor, log_likelihood: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(log_likelihood, q)
        return (g + model.get_buffer("log_prior").log_softmax(-1)).log_softmax(-1)

    for batch in (1, 100):
        x = torch.randn(batch, 2, generator=torch.Generator().manual_seed(0))

        def middle(x: Tensor = x) -> Tensor:
            return torch.full((len(x), TASKS), 1 / TASKS, requires_grad=True)

        def by_hand(x: Tensor = x) -> Tensor:
            q = middle()
            return posterior(
                q, dist.Normal(model.net(q), 0.5, validate_args=False).log_prob(x).sum()
            )

        def traced(x: Tensor = x) -> Tensor:
            q = middle()
            with poutine.trace() as tracer, poutine.condition(data={"z": q}):
                model(x)
            return posterior(q, tracer.trace.log_prob_sum(lambda name, _: name != "z"))

        def ours(x: Tensor = x) -> Tensor:
            return infer(model, x).logits()

        for found in (by_hand(), traced()):
            torch.testing.assert_close(found, ours())
        hand, trace, call = (many(job, CALLS) for job in (by_hand, traced, ours))
        what = f"{CALLS} calls of one step, batch {batch}"
        limits = {"by hand": Target(LIMIT)}
        rows += ratio_rows(what, call, {"by hand": hand, "Pyro's trace": trace}, seconds, limits)
        rows += ratio_rows(f"Pyro's trace, batch {batch}", trace, {"by hand": hand}, seconds)
    return rows
