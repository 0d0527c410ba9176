"""Trackers: what a training reports is what it did, and the default ignores it."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from gbi_pyro import Enumeration, GradientEM, Tracker, fit_marginal
from gbi_pyro.learning import best_of
from gbi_pyro.tracker import UNTRACKED


class Kept:
    """A class of one's own: it has both methods, and no base."""

    def __init__(self):
        self.stages, self.metrics = [], {}

    def stage(self, text):
        self.stages.append(text)

    def metric(self, name, value, step):
        self.metrics.setdefault(name, []).append((step, value))


class Clusters(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.means = torch.nn.Parameter(torch.randn(2, generator=draw))

    def forward(self, x):
        with pyro.plate("trial", len(x)):
            prior = dist.OneHotCategorical(torch.ones(2) / 2)
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Normal(z @ self.means, 0.3), obs=x)


X = torch.tensor([-1.1, -1.0, -0.9, 0.9, 1.0, 1.1])


def make(seed=0):
    model = Clusters(seed)
    return GradientEM(model, Enumeration(), torch.optim.SGD(model.parameters(), lr=0.05))


def test_em_reports_the_objective_of_every_step():
    kept, em = Kept(), make()
    fit = em.fit(X, tracker=kept)
    steps, values = zip(*kept.metrics["objective"], strict=True)
    assert steps == tuple(range(1, fit.num_steps + 1))
    assert values[-1] == fit.objective
    assert values == tuple(step.objective / step.num_observations for step in em.history)


def test_em_that_goes_on_counts_its_steps_on():
    kept, em = Kept(), make()
    em.step(X)
    em.fit(X, tracker=kept)
    assert kept.metrics["objective"][0][0] == 2


def test_restarts_report_each_seed_and_what_it_reached():
    kept = Kept()
    found = best_of(make, (3, 4), 5, X, tracker=kept)
    assert kept.stages == ["training from seed 3", "training from seed 4"]
    assert [v for _, v in kept.metrics["objective reached"]] == [*found.objectives.values()]


def test_the_log_evidence_of_a_fit_never_falls_and_ends_at_the_optimum():
    def model(x):
        mean = pyro.param("mean", torch.tensor(0.0))
        with pyro.plate("trial", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    kept = Kept()
    fit = fit_marginal(model, X, starts=3, tracker=kept)
    steps, values = zip(*kept.metrics["log evidence"], strict=True)
    assert steps == tuple(range(1, len(steps) + 1))
    assert list(values) == sorted(values)
    assert values[-1] == pytest.approx(fit.log_evidence, abs=1e-6)


def test_a_subclass_replaces_what_it_wants_and_the_default_ignores_all():
    class Stages(Tracker):
        def stage(self, text):
            seen.append(text)

    seen = []
    for tracker in (Stages(), UNTRACKED):
        tracker.stage("training")
        tracker.metric("loss", 1.0, 1)
    assert seen == ["training"]
