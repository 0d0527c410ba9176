"""Tasks given draws of the other sites, against sums by hand and Pyro's own log joint."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro_models import TASK, brute_force
from torch import Tensor

from gbi_pyro import Enumeration, TaskSiteError
from gbi_pyro.export import GivenDraws

PRIOR = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def mixture(x: Tensor) -> None:
    """Three components whose means and common scale are unknown."""
    zeros = torch.zeros(3, dtype=torch.float64)
    means = pyro.sample("means", dist.Normal(zeros, 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(zeros[0], 0.5))
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
        pyro.sample("x", dist.Normal((z * means).sum(-1), scale), obs=x)


def plated_means(x: Tensor) -> None:
    """The same, with the means in a plate: they are no event, and do not broadcast over draws."""
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=torch.float64), 0.5))
    with pyro.plate("task", 3):
        means = pyro.sample("means", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
        pyro.sample("x", dist.Normal((z * means).sum(-1), scale), obs=x)


def local_latent(x: Tensor) -> None:
    """w_i ~ Normal(mean of its task, 1) is drawn for each element, and x_i hangs on w_i alone."""
    means = pyro.sample("means", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
    with pyro.plate("trial", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
        w = pyro.sample("w", dist.Normal((z * means).sum(-1), 1.0))
        pyro.sample("x", dist.Normal(w, 0.5), obs=x)


def nested(x: Tensor) -> None:
    """A task per sequence and a task per step."""
    half = dist.OneHotCategorical(torch.tensor([0.4, 0.6], dtype=torch.float64))
    shift = pyro.sample("shift", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    with pyro.plate("sequence", x.shape[0], dim=-2):
        context = pyro.sample("context", half, infer=TASK)
        with pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", half, infer=TASK)
            mean = z[..., 0] + 2 * context[..., 0] + shift
            pyro.sample("x", dist.Normal(mean, 0.7), obs=x)


def no_plate(x: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
    pyro.sample("x", dist.Normal(mean + z[..., 0], 0.7), obs=x)


@pytest.fixture
def draws(generator: torch.Generator) -> dict[str, Tensor]:
    normal = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    return {"means": normal[:, :3], "scale": (0.3 * normal[:, 3]).exp()}


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(5, generator=generator, dtype=torch.float64)


def scores(x: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """log p(x_i, z_i = k | draw s), (S, N, K)."""
    means, scale = draws["means"][:, None], draws["scale"][:, None, None]
    return PRIOR.log() + dist.Normal(means, scale).log_prob(x[:, None])


@pytest.mark.parametrize("model", [mixture, plated_means])
def test_tasks_are_summed_out_draw_by_draw(model: Any, x: Tensor, draws: dict[str, Tensor]) -> None:
    found = GivenDraws(draws)(model, x)
    joint = scores(x, draws)
    torch.testing.assert_close(found.log_likelihood, joint.logsumexp(-1)[None])
    torch.testing.assert_close(found.log_probs["z"], joint.log_softmax(-1)[None])
    torch.testing.assert_close(found.average().probs(), joint.softmax(-1).mean(0))
    torch.testing.assert_close(
        found.log_predictive_density, joint.logsumexp(-1).exp().mean(0).log()
    )
    assert found.passes.forward == 7 * 3
    assert found.passes.check == 3 + 1  # one for each of three tasks, and a random one


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_draws_in_a_plate_give_what_draws_one_by_one_give(
    chunk_size: int, x: Tensor, draws: dict[str, Tensor]
) -> None:
    alone, together = GivenDraws(draws), GivenDraws(draws, chunk_size=chunk_size)
    for model, values, data in (
        (mixture, draws, x),
        (nested, {"shift": draws["scale"]}, x.reshape(1, 5) + torch.arange(2.0)[:, None].double()),
        (local_latent, {**draws, "w": x + draws["means"][:, :1]}, x),
    ):
        one = GivenDraws(values)(model, data)
        many = GivenDraws(values, chunk_size=chunk_size)(model, data)
        torch.testing.assert_close(many.log_likelihood, one.log_likelihood)
        torch.testing.assert_close(many.log_probs, one.log_probs)
    shapes = [
        given.predict(mixture, x, generator=torch.Generator())["x"].shape
        for given in (alone, together)
    ]
    assert shapes == [(7, 5), (7, 5)]


def test_a_model_that_does_not_broadcast_over_draws_says_so(
    x: Tensor, draws: dict[str, Tensor]
) -> None:
    with pytest.raises(TaskSiteError, match=r"does not broadcast .*chunk_size=None.*to_event"):
        GivenDraws(draws, chunk_size=4)(plated_means, x)

    def wrong(x: Tensor) -> None:  # runs, and takes the first draw for all
        mean = pyro.sample("mean", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 0] + mean.flatten()[0], 1.0), obs=x)

    with pytest.raises(TaskSiteError, match="the last draw alone has another posterior"):
        GivenDraws({"mean": draws["scale"]}, chunk_size=4)(wrong, x)


def test_what_was_drawn_for_an_element_is_given_and_not_scored(
    x: Tensor, draws: dict[str, Tensor], generator: torch.Generator
) -> None:
    w = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    values = {"means": draws["means"], "w": w}
    found = GivenDraws(values)(local_latent, x)
    torch.testing.assert_close(found.log_likelihood[0], dist.Normal(w, 0.5).log_prob(x))
    of_w = PRIOR.log() + dist.Normal(draws["means"][:, None], 1.0).log_prob(w[..., None])
    torch.testing.assert_close(found.log_probs["z"][0], of_w.log_softmax(-1))


def test_nested_sites_agree_with_every_path_tried(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    shifts = torch.tensor([0.3, -0.5], dtype=torch.float64)
    found = GivenDraws({"shift": shifts})(nested, x)
    assert found.log_likelihood.shape == (1, 2, 2, 1)
    shapes = {"context": (2, 1, 2), "z": (2, 3, 2)}
    for s, shift in enumerate(shifts):
        given = poutine.condition(nested, data={"shift": shift})
        probs, evidence = brute_force(given, shapes, x)
        prior = dist.Normal(0.0, 1.0).log_prob(shift)
        torch.testing.assert_close(found.log_likelihood[0, s].sum(), evidence - prior)
        for name in shapes:
            torch.testing.assert_close(found.log_probs[name][0, s].exp(), probs[name])


def test_a_task_without_plates_leaves_the_prior_of_the_draws_out() -> None:
    x, mean = torch.tensor(0.4).double(), torch.tensor([0.1, -0.2]).double()
    found = GivenDraws({"mean": mean})(no_plate, x)
    joint = PRIOR.log() + dist.Normal(mean[:, None] + torch.eye(3)[0].double(), 0.7).log_prob(x)
    torch.testing.assert_close(found.log_likelihood[0], joint.logsumexp(-1))
    torch.testing.assert_close(found.log_probs["z"][0], joint.log_softmax(-1))


def test_masked_data_count_for_nothing(x: Tensor, draws: dict[str, Tensor]) -> None:
    keep = torch.tensor([True, True, False, True, True])
    missing = x.masked_fill(~keep, torch.nan)

    def model(x: Tensor) -> None:
        means = pyro.sample("means", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
            with poutine.mask(mask=keep):
                pyro.sample("x", dist.Normal((z * means).sum(-1), 1.0), obs=x)

    values = {"means": draws["means"], "scale": torch.ones(7).double()}
    found = GivenDraws(values)(model, missing)
    expected = torch.where(keep, scores(x, values).logsumexp(-1), 0.0)
    torch.testing.assert_close(found.log_likelihood[0], expected)
    torch.testing.assert_close(found.average().probs()[2], PRIOR)


def test_weights_of_a_bayesian_network_are_sites_too(generator: torch.Generator) -> None:
    class Network(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = PyroModule[torch.nn.Linear](2, 1)
            self.layer.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))

        def forward(self, x: Tensor) -> None:
            layer = self.layer
            assert layer.weight.shape == (1, 2)  # drawn here, once, and not for each trial
            with pyro.plate("trial", len(x)):
                z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2) / 2), infer=TASK)
                pyro.sample("x", dist.Normal(layer(z).squeeze(-1), 1.0), obs=x)

    network, x = Network(), torch.randn(4, generator=generator)
    weights = torch.randn(3, 1, 2, generator=generator)
    with torch.no_grad():
        means = weights[:, 0] + network.layer.bias
    pyro.clear_param_store()
    found = GivenDraws({"layer.weight": weights})(network, x)
    expected = dist.Normal(means[:, None], 1.0).log_prob(x[:, None]).logsumexp(-1)
    torch.testing.assert_close(found.log_likelihood[0], expected - torch.tensor(2.0).log())
    assert not dict(pyro.get_param_store())


def test_draws_of_an_svi_guide_may_hold_tasks_and_data(x: Tensor) -> None:
    pyro.set_rng_seed(0)
    guide = AutoNormal(poutine.block(mixture, hide=["z"]))
    guide(x)
    # Predictive draws z from its prior, whatever x is: that it must not count is the point.
    drawn = Predictive(mixture, guide=guide, num_samples=6)(x)
    assert {"z", "means", "scale"} <= set(drawn)
    found = GivenDraws(drawn)(mixture, x)
    assert drawn["means"].shape == (6, 1, 3)  # Pyro leaves a dimension for the plate
    values = {"means": drawn["means"].squeeze(1), "scale": drawn["scale"].flatten()}
    torch.testing.assert_close(found.log_likelihood[0], scores(x, values).logsumexp(-1))
    assert set(found.values) == {"means", "scale"}


def test_predictions_are_of_elements_not_seen_yet(x: Tensor) -> None:
    S = 4000
    means = torch.tensor([-3.0, 0.0, 2.0]).double()
    values = {"means": means.expand(S, 3), "scale": torch.full((S,), 0.5).double()}
    before = torch.get_rng_state()
    drawn = GivenDraws(values, chunk_size=500).predict(
        mixture, x, generator=torch.Generator().manual_seed(3)
    )["x"]
    assert torch.equal(torch.get_rng_state(), before)
    mean = (PRIOR * means).sum()
    variance = 0.25 + (PRIOR * means**2).sum() - mean**2
    # Five standard errors, whatever the x_i that was seen in the same place.
    assert ((drawn.mean(0) - mean).abs() < 5 * (variance / S).sqrt()).all()
    again = GivenDraws(values, chunk_size=500).predict(
        mixture, x, generator=torch.Generator().manual_seed(3)
    )["x"]
    assert torch.equal(drawn, again)


def test_held_out_density_is_that_of_the_held_out_data(x: Tensor, draws: dict[str, Tensor]) -> None:
    found = GivenDraws(draws)(mixture, x[:2] + 1)
    expected = scores(x[:2] + 1, draws).logsumexp(-1).exp().mean(0).log()
    torch.testing.assert_close(found.log_predictive_density, expected)


def test_labels_that_are_known_need_no_summing(x: Tensor, draws: dict[str, Tensor]) -> None:
    def labelled(x: Tensor) -> None:
        means = pyro.sample("means", dist.Normal(torch.zeros(3).double(), 1.0).to_event(1))
        with pyro.plate("trial", len(x)):
            known = torch.eye(3).double()[torch.arange(len(x)) % 3]
            y = pyro.sample("y", dist.OneHotCategorical(PRIOR), infer=TASK, obs=known)
            z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
            pyro.sample("x", dist.Normal(((z + y) * means).sum(-1), 1.0), obs=x)

    found = GivenDraws({"means": draws["means"]})(labelled, x)
    assert list(found.log_probs) == ["z"]
    k = torch.arange(5) % 3
    shifted = dist.Normal(draws["means"][:, None] + draws["means"][:, k, None], 1.0)
    joint = PRIOR.log() + shifted.log_prob(x[:, None])
    expected = joint.logsumexp(-1) + PRIOR.log()[k]
    torch.testing.assert_close(found.log_likelihood[0], expected)


def data_outside(x: Tensor) -> None:
    mixture(x)
    pyro.sample("elsewhere", dist.Normal(0.0, 1.0), obs=torch.tensor(0.3))


@pytest.mark.parametrize(
    ("model", "draws", "error", "message"),
    [
        (mixture, {}, ValueError, "same number of draws.*no site"),
        (mixture, {"means": torch.zeros(0, 3), "scale": torch.ones(0)}, ValueError, "at least one"),
        (mixture, {"means": torch.zeros(2, 3), "scale": torch.ones(3)}, ValueError, "same number"),
        (mixture, {"means": torch.tensor(0.0)}, ValueError, "same number"),
        (mixture, {"means": torch.zeros(2, 3)}, TaskSiteError, "'scale' is neither observed nor"),
        (
            mixture,
            {"means": torch.zeros(2, 2, 3), "scale": torch.ones(2)},
            TaskSiteError,
            r"'means' have shape \(2, 3\) each; expected \(3,\)",
        ),
        (
            mixture,
            {"means": torch.zeros(2), "scale": torch.ones(2)},
            TaskSiteError,
            r"'means' have shape \(\) each; expected \(3,\)",
        ),
        (
            data_outside,
            {"means": torch.zeros(2, 3), "scale": torch.ones(2)},
            TaskSiteError,
            r"data of \['elsewhere'\] belong to no element of the task sites \['z'\]",
        ),
    ],
)
def test_invalid_draws_are_named(
    model: Any, draws: dict[str, Tensor], error: type[Exception], message: str, x: Tensor
) -> None:
    with pytest.raises(error, match=message):
        GivenDraws(draws)(model, x)


def test_draws_of_nothing_that_the_model_has_are_refused(x: Tensor) -> None:
    def known(x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 0], 1.0), obs=x)

    with pytest.raises(ValueError, match=r"none of which it has: .*Enumeration alone"):
        GivenDraws({"mean": torch.zeros(2)})(known, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 0}, "chunk_size must be at least 1 or None, got 0"),
        ({"infer": Enumeration(temperature=2.0)}, "temperature = 1; got temperature = 2.0"),
    ],
)
def test_invalid_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GivenDraws({"a": torch.zeros(1)}, **options)


@pytest.mark.parametrize("chunk_size", [None, 500])
def test_tasks_of_several_sites_are_drawn_together(
    chunk_size: int | None, generator: torch.Generator
) -> None:
    """Only a + b + shift is seen: the share of draws with both on is their joint probability."""

    def two(x: Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        half = dist.OneHotCategorical(torch.full((2,), 0.5, dtype=torch.float64))
        with pyro.plate("case", len(x)):
            a = pyro.sample("a", half, infer=TASK)
            b = pyro.sample("b", half, infer=TASK)
            pyro.sample("x", dist.Normal(a[..., 1] + b[..., 1] + shift, 0.5), obs=x)

    shifts = 0.1 * torch.randn(2000, generator=generator, dtype=torch.float64)
    x = torch.tensor([1.0, 0.3], dtype=torch.float64)
    found = GivenDraws({"shift": shifts}, chunk_size=chunk_size)(two, x)
    drawn = found.sample(generator)
    assert drawn["a"].shape == (1, 2000, 2)
    both = (drawn["a"] * drawn["b"])[0].double()
    means = torch.tensor([0.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    log_lik = dist.Normal(means + shifts[:, None, None], 0.5).log_prob(x.unsqueeze(-1))
    p = log_lik.softmax(-1)[..., 3]
    error = (p * (1 - p)).sum(0).sqrt() / len(shifts)
    assert bool(((both.mean(0) - p.mean(0)).abs() <= 4 * error).all())
    product = (found.log_probs["a"] + found.log_probs["b"])[0, :, :, 1].exp().mean(0)
    assert float((product - p.mean(0))[0]) > 0.05  # what draws one by one would give
