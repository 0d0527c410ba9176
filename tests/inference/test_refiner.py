"""The learned refiner: what it is untrained, where it is exact, and what training adds."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, normal, random_log_prior
from torch import Tensor

from gbi_pyro import Enumeration, IterativeGradient, OneStepGradient, TaskSiteError
from gbi_pyro.inference import Drawn, LearnedRefiner, RefinerNetwork
from gbi_pyro.metrics import agreement
from gbi_pyro.problems import Problem

F64 = torch.float64
LINE = torch.linspace(0, 1, 5, dtype=F64)
Features = Callable[..., Tensor]


def repeated(x: Tensor, means: Tensor = LINE, sigma: float = 0.3) -> None:
    """x_it ~ N(mu_z_i, sigma): several observations of each case, ``(N, T)``."""
    with pyro.plate("case", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.ones_like(means)), infer=TASK)
        mean = (z @ means).unsqueeze(-1).expand(*z.shape[:-1], x.shape[-1])
        pyro.sample("x", dist.Normal(mean, sigma).to_event(1), obs=x)


def line(length: int = 1, means: Tensor = LINE, sigma: float = 0.3) -> Problem:
    def draw(n: int, generator: torch.Generator) -> Drawn:
        z = torch.randint(len(means), (n,), generator=generator)
        return Drawn((means[z].unsqueeze(-1) + sigma * normal(generator, n, length),), {"z": z})

    return Problem("line", partial(repeated, means=means, sigma=sigma), draw)


def by_time(x: Tensor) -> list[tuple[Tensor]]:
    return [(x[:, t : t + 1],) for t in range(x.shape[1])]


def mean_of(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def exact_filter(sizes: dict[str, int]) -> RefinerNetwork:
    """A network of one step of size 1, without correction."""
    network = RefinerNetwork(sizes, steps=1).double()
    torch.nn.init.constant_(network.step_size_logits, 50.0)
    return network


def small(**options: object) -> LearnedRefiner:
    defaults = {"steps": 3, "hidden": 32, "updates": 40, "batch": 64, "rate": 1e-2}
    return LearnedRefiner(**{**defaults, **options})  # type: ignore[arg-type]


def two(x: Tensor) -> None:
    """Two tasks of a case that see each other, the second with a prior given the first."""
    means = torch.tensor([[0.0, 1.0, 0.5], [2.0, -1.0, 0.3]], dtype=F64)
    prior = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=F64).log()
    with pyro.plate("case", len(x)):
        a = pyro.sample("a", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
        b = pyro.sample("b", dist.OneHotCategorical(logits=a @ prior), infer=TASK)
        mean = torch.einsum("...i,...j,ij->...", a, b, means)
        pyro.sample("x", dist.Normal(mean, 0.5), obs=x)


def draw_two(n: int, generator: torch.Generator) -> Drawn:
    tasks = {"a": torch.randint(2, (n,), generator=generator), "b": torch.zeros(n).long()}
    return Drawn((normal(generator, n),), tasks)


@pytest.mark.parametrize(
    ("model", "draw"), [(line().model, line().draw), (two, draw_two)], ids=["one", "two"]
)
def test_untrained_it_is_damped_mirror_ascent(
    model: Callable[..., None],
    draw: Callable[[int, torch.Generator], Drawn],
    generator: torch.Generator,
) -> None:
    """The last layer starts at zero, and each step size at sigmoid(-1)."""
    refiner = LearnedRefiner(updates=0).fit(Problem("", model, draw), generator)
    args, _ = draw(10, generator)
    rate = 1 / (1 + math.exp(1))
    mirror = IterativeGradient(num_steps=5, rate=rate, optim="mirror", keep_path=True)
    found, expected = refiner(model, *args), mirror(model, *args)
    for name, path in expected.path.items():
        torch.testing.assert_close(found.path[name], path, rtol=0, atol=1e-6)
    assert found.passes == expected.passes == (5, 5, 0)
    assert found.joint is None


def test_one_full_step_for_each_observation_is_the_exact_filter(
    generator: torch.Generator,
) -> None:
    """Where the log likelihood is affine in the task: the carried log q is the prior of new data.

    Of a posterior with its tasks in another order the model's own order is taken up.
    """

    def affine(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones_like(LINE)), infer=TASK)
            pyro.factor("x", (z @ LINE) * x.sum(-1))

    x = normal(generator, 6, 4)
    refiner = LearnedRefiner(steps=1, split=by_time, network=exact_filter({"z": 5}))
    exact = Enumeration()(affine, x).logits()
    torch.testing.assert_close(refiner(affine, x).logits(), exact)
    start = Enumeration()(affine, x[:, :3])
    for before in (start, start.reordered([4, 1, 0, 2, 3])):
        torch.testing.assert_close(refiner.refine(before, affine, x[:, 3:]).logits(), exact)


def test_a_call_is_a_refinement_of_one_piece_after_the_other(generator: torch.Generator) -> None:
    problem = line(4, sigma=0.6)
    refiner = small(steps=2, updates=5, split=by_time).fit(problem, generator)
    (x,), _ = problem.draw(6, generator)
    whole, found = refiner(problem.model, x), refiner(problem.model, x[:, :1])
    paths = [found.path["z"]]
    for t in range(1, 4):
        found = refiner.refine(found, problem.model, x[:, t : t + 1])
        assert found.passes == (2, 2, 0)
        paths.append(found.path["z"][1:])
    torch.testing.assert_close(found.logits(), whole.logits())
    torch.testing.assert_close(torch.cat(paths), whole.path["z"])
    torch.testing.assert_close(found.num_observations, whole.num_observations)
    assert whole.num_observations["z"].tolist() == [4] * 6
    assert whole.passes == (8, 8, 0)


def test_training_beats_one_step(generator: torch.Generator) -> None:
    problem = line()
    refiner = small().fit(problem, generator)
    drawn = problem.draw(500, generator)
    exact = problem.posterior(drawn)
    one = agreement(exact, OneStepGradient()(problem.model, *drawn.args)).kl
    found = refiner(problem.model, *drawn.args)
    assert agreement(exact, found).kl < one / 2
    kl = [agreement(exact.probs().log(), q.log()).kl for q in found.path["z"]]
    assert kl[3] < kl[1] < kl[0]


def test_refining_a_stream_beats_starting_anew(generator: torch.Generator) -> None:
    """One step from the carried log q, against one step from maximum entropy on all data so far.

    The error of one step grows with the data; and the last observation alone knows little.
    """
    problem = line(6, sigma=0.6)
    refiner = small(steps=1, split=by_time).fit(problem, generator)
    drawn = problem.draw(300, generator)
    exact = problem.posterior(drawn)
    (x,) = drawn.args
    kl = agreement(exact, refiner(problem.model, x)).kl
    assert kl < agreement(exact, OneStepGradient()(problem.model, x)).kl
    assert kl < agreement(exact, refiner(problem.model, x[:, -1:])).kl


def test_the_control_never_asks_the_likelihood(generator: torch.Generator) -> None:
    control = small(use_gradient=False, features=mean_of).fit(line(), generator)
    (x,), _ = line().draw(5, generator)
    found = control(line().model, x)
    assert found.passes == (0, 0, 1)
    other = control(line(means=LINE.flip(0), sigma=2.0).model, x)
    torch.testing.assert_close(found.logits(), other.logits(), rtol=0, atol=0)
    assert not torch.allclose(found.logits(), control(line().model, x + 0.3).logits())


def test_features_reach_the_network(generator: torch.Generator) -> None:
    def noise(x: Tensor) -> Tensor:
        return torch.arange(3 * len(x), dtype=torch.float32).reshape(len(x), 3)

    refiner = small(updates=2, features=noise).fit(line(), generator)
    assert refiner.network is not None
    assert refiner.network.num_features == 3
    found = refiner(line().model, torch.zeros(2, 1, dtype=F64)).logits()
    assert not torch.allclose(found[0], found[1])


def test_only_differences_of_the_gradient_count(generator: torch.Generator) -> None:
    network = RefinerNetwork({"a": 2, "b": 3}, steps=2, generator=generator).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    log_prior = {n: random_log_prior(generator, 4, k) for n, k in network.sizes.items()}
    log_prior["b"][0, 1] = -torch.inf
    log_q = {n: p.softmax(-1).log() for n, p in log_prior.items()}
    g = {n: normal(generator, *q.shape) for n, q in log_q.items()}
    found = network(1, log_q, g, log_prior)
    shifted = network(1, log_q, {n: v + 7 for n, v in g.items()}, log_prior)
    for name, q in found.items():
        torch.testing.assert_close(q, shifted[name])
        torch.testing.assert_close(q.exp().sum(-1), torch.ones(4, dtype=F64))
    assert found["b"][0, 1] == -torch.inf
    assert found["b"].isneginf().sum() == 1


def test_each_update_draws_anew(generator: torch.Generator) -> None:
    seen: list[Drawn] = []

    def draw(n: int, generator: torch.Generator) -> Drawn:
        seen.append(line().draw(n, generator))
        return seen[-1]

    small(updates=4).fit(replace(line(), draw=draw), generator)
    assert len(seen) == 4
    assert len({d.args[0].sum().item() for d in seen}) == 4
    assert [len(d.args[0]) for d in seen] == [64] * 4


def test_a_fit_depends_on_its_generator_alone_and_leaves_nothing_behind() -> None:
    before = torch.get_rng_state()
    fits = [small(updates=3).fit(line(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert not pyro.get_param_store().keys()
    x = torch.zeros(1, 1, dtype=F64)
    first, again, other = (fit(line().model, x).logits() for fit in fits)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not first.requires_grad


def test_weights_are_saved_and_put_back(generator: torch.Generator) -> None:
    refiner = small(updates=3, features=mean_of).fit(line(), generator)
    assert refiner.network is not None
    network = RefinerNetwork({"z": 5}, steps=3, hidden=32, num_features=1).double()
    network.load_state_dict(refiner.network.state_dict())
    x = normal(generator, 3, 1)
    expected = refiner(line().model, x).logits()
    for other in (replace(refiner, network=network), copy.deepcopy(refiner)):
        assert torch.equal(other(line().model, x).logits(), expected)
    single = replace(refiner, network=copy.deepcopy(network).float())
    torch.testing.assert_close(single(line().model, x).logits(), expected, rtol=0, atol=1e-4)


def test_without_data_it_is_the_prior_and_forbidden_tasks_stay_so(
    generator: torch.Generator,
) -> None:
    log_prior = torch.tensor([0.2, 0.0, 0.3, 0.1, 0.4], dtype=F64).log()

    def masked(x: Tensor, mask: Tensor) -> None:
        with poutine.mask(mask=mask):
            gaussian(x, LINE, 0.5, log_prior)

    def draw(n: int, generator: torch.Generator) -> Drawn:
        z = torch.multinomial(log_prior.exp(), n, replacement=True, generator=generator)
        return Drawn((LINE[z] + 0.5 * normal(generator, n), torch.ones(n) > 0), {"z": z})

    refiner = small(updates=3).fit(Problem("", masked, draw), generator)
    mask = torch.tensor([True, False])
    found = refiner(masked, normal(generator, 2), mask)
    torch.testing.assert_close(found.probs()[1], log_prior.exp())
    assert bool(found.logits()[:, 1].isneginf().all())
    assert bool(found.logits()[0, [0, 2, 3, 4]].isfinite().all())
    further = refiner.refine(found, masked, normal(generator, 2), mask)
    torch.testing.assert_close(further.logits()[1], found.logits()[1])
    assert bool(further.logits()[:, 1].isneginf().all())


def test_unfitted_it_says_how_to_fit() -> None:
    with pytest.raises(ValueError, match=r"no network yet.*\.fit\(problem, generator\)"):
        LearnedRefiner()(line().model, torch.zeros(1, 1, dtype=F64))
    start = OneStepGradient()(line().model, torch.zeros(1, 1, dtype=F64))
    with pytest.raises(ValueError, match="no network yet"):
        LearnedRefiner().refine(start, line().model, torch.zeros(1, 1, dtype=F64))


def test_other_tasks_and_elements_are_refused(generator: torch.Generator) -> None:
    refiner, x = small(updates=0).fit(line(), generator), torch.zeros(2, 1, dtype=F64)
    with pytest.raises(TaskSiteError, match=r"task sites that the refiner was fitted to.*'z': 2"):
        refiner(line(means=LINE[:2]).model, x)
    control = small(updates=0, use_gradient=False, features=mean_of).fit(line(), generator)
    for infer in (refiner, control):
        with pytest.raises(TaskSiteError, match=r"the posterior to start from .* got \(1, 5\)"):
            infer.refine(infer(line().model, x[:1]), line().model, x)
    with pytest.raises(TaskSiteError, match="'z'"):
        refiner.refine(OneStepGradient()(two, x[:, 0]), line().model, x)


def test_sites_in_different_plates_are_refused(generator: torch.Generator) -> None:
    def nested(x: Tensor) -> None:
        a = pyro.sample("a", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
        with pyro.plate("case", len(x)):
            b = pyro.sample("b", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(a[..., 1] + b[..., 1], 1.0), obs=x)

    with pytest.raises(TaskSiteError, match="LearnedRefiner takes task sites that lie in the same"):
        small().fit(Problem("", nested, draw_two), generator)


@pytest.mark.parametrize("pieces", [[], [torch.zeros(1)]], ids=["none", "no tuple"])
def test_pieces_are_checked(pieces: list[Tensor], generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="split should return a sequence of tuples"):
        small(split=lambda x: pieces).fit(line(), generator)


def test_features_are_checked(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"features has shape \(3, 1\), expected \(64, 1\)"):
        small(features=lambda x: torch.zeros(3, 1)).fit(line(), generator)


def test_a_drawn_task_that_the_prior_forbids_is_refused(generator: torch.Generator) -> None:
    def draw(n: int, generator: torch.Generator) -> Drawn:
        return Drawn((normal(generator, n),), {"z": torch.ones(n).long()})

    log_prior = torch.tensor([0.5, 0.0, 0.5], dtype=F64).log()
    model = partial(gaussian, means=LINE[:3], sigma=0.5, log_prior=log_prior)
    with pytest.raises(ValueError, match="loss should be finite; got inf"):
        small().fit(Problem("", model, draw), generator)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"updates": -1}, ValueError, "updates must be at least 0"),
        ({"batch": 0}, ValueError, "batch must be at least 1"),
        ({"hidden": 0}, ValueError, "hidden must be at least 1"),
        ({"rate": 0.0}, ValueError, "rate must be positive"),
        ({"steps": repeated}, TypeError, "steps of LearnedRefiner should be an integer"),
        ({"features": 3}, TypeError, "features of LearnedRefiner should be a function"),
        ({"split": 3}, TypeError, "split of LearnedRefiner should be a function"),
        ({"use_gradient": False}, ValueError, "use_gradient=False leaves the network nothing"),
        ({"network": exact_filter({"z": 2})}, ValueError, "network should be built for the opt"),
    ],
)
def test_options_are_checked(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LearnedRefiner(**options)  # type: ignore[arg-type]
