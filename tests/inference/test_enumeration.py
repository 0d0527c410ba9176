import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, brute_force, gaussian, gaussian_scores, normal, random_log_prior
from torch import Tensor, nn

from gbi_pyro import Enumeration, TaskSiteError
from gbi_pyro.inference._independence import MOST_SHIFTS
from gbi_pyro.inference.enumeration import CHUNK_ELEMENTS, CHUNK_NUMBERS

ChunkSize = int | Literal["auto"] | None
WEIGHTS = torch.tensor([[0.3, -1.0, 0.8], [1.0, 0.5, -0.7]], dtype=torch.float64)


def nonlinear(z: Tensor) -> Tensor:
    return (z @ WEIGHTS[:, : z.shape[-1]].T.to(z)).tanh().sum(-1)


def prior_of(*probs: float) -> dist.OneHotCategorical:
    return dist.OneHotCategorical(torch.tensor(probs, dtype=torch.float64))


def one_site(x: Tensor) -> None:
    with pyro.plate("sequence", 4):
        z = pyro.sample("z", prior_of(0.2, 0.5, 0.3), infer=TASK)
        pyro.sample("x", dist.Normal(nonlinear(z), 0.5), obs=x[:4])


def no_plate(x: Tensor) -> None:
    z = pyro.sample("z", prior_of(0.2, 0.5, 0.3), infer=TASK)
    pyro.sample("x", dist.Normal(nonlinear(z), 0.5), obs=x[0])


def time_inside(x: Tensor) -> None:
    with pyro.plate("sequence", 2, dim=-2):
        z = pyro.sample("z", prior_of(0.2, 0.5, 0.3), infer=TASK)
        with pyro.plate("time", 2, dim=-1):
            pyro.sample("x", dist.Normal(nonlinear(z), 0.5), obs=x[:4].reshape(2, 2))


def forbidden(x: Tensor) -> None:
    with pyro.plate("sequence", 3):
        z = pyro.sample("z", prior_of(0.0, 0.6, 0.4), infer=TASK)
        pyro.sample("x", dist.Normal(nonlinear(z), 0.5), obs=x[:3])


def two_sites(x: Tensor) -> None:
    with pyro.plate("sequence", 2):
        a = pyro.sample("a", prior_of(0.3, 0.7), infer=TASK)
        b = pyro.sample("b", prior_of(0.2, 0.5, 0.3), infer=TASK)
        pyro.sample("x", dist.Normal(nonlinear(b) * (0.5 + a[..., 0]), 0.5), obs=x[:2])


ROWS = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
FORBIDDING_ROWS = torch.tensor([[1.0, 0.0], [0.3, 0.7]], dtype=torch.float64)


def nested(x: Tensor, rows: Tensor = ROWS) -> None:
    """A context per sequence; tasks per step, whose prior and likelihood depend on it."""
    with pyro.plate("sequence", 2, dim=-2):
        c = pyro.sample("c", prior_of(0.4, 0.6), infer=TASK)
        pyro.sample("y", dist.Normal(c @ rows[:, 0], 0.8), obs=x[:2, None])
        with pyro.plate("time", 2, dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(c @ rows), infer=TASK)
            mean = nonlinear(z) + 0.3 * c[..., 0]
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x[2:6].reshape(2, 2))


def nested_forbidden(x: Tensor) -> None:
    nested(x, FORBIDDING_ROWS)


def global_context(x: Tensor) -> None:
    """A context of everything, outside all plates, and one site without a say in it."""
    c = pyro.sample("c", prior_of(0.4, 0.6), infer=TASK)
    with pyro.plate("sequence", 3):
        z = pyro.sample("z", dist.OneHotCategorical(c @ ROWS), infer=TASK)
        pyro.sample("x", dist.Normal(nonlinear(z), 0.5), obs=x[:3])
    pyro.sample("y", dist.Normal(c[..., 0], 0.7), obs=x[4])


def masked_and_scaled(x: Tensor) -> None:
    with pyro.plate("sequence", 4):
        z = pyro.sample("z", prior_of(0.2, 0.5, 0.3), infer=TASK)
        mask = torch.tensor([True, True, False, True])
        with poutine.mask(mask=mask), poutine.scale(scale=2.5):
            pyro.sample("x", dist.Normal(nonlinear(z), 0.5), obs=x[:4])


CASES: dict[str, tuple[Callable[..., Any], dict[str, tuple[int, ...]]]] = {
    "one site": (one_site, {"z": (4, 3)}),
    "no plate": (no_plate, {"z": (3,)}),
    "time inside": (time_inside, {"z": (2, 1, 3)}),
    "forbidden": (forbidden, {"z": (3, 3)}),
    "two sites": (two_sites, {"a": (2, 2), "b": (2, 3)}),
    "nested": (nested, {"c": (2, 1, 2), "z": (2, 2, 2)}),
    "nested, forbidden": (nested_forbidden, {"c": (2, 1, 2), "z": (2, 2, 2)}),
    "global context": (global_context, {"c": (2,), "z": (3, 2)}),
    "masked and scaled": (masked_and_scaled, {"z": (4, 3)}),
}


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 7, "auto"])
@pytest.mark.parametrize("case", CASES)
def test_it_equals_trying_every_task_of_every_element(
    case: str, chunk_size: ChunkSize, generator: torch.Generator
) -> None:
    model, shapes = CASES[case]
    x = normal(generator, 6)
    posterior = Enumeration(chunk_size=chunk_size)(model, x)
    marginals, log_evidence = brute_force(model, shapes, x)
    for name, expected in marginals.items():
        torch.testing.assert_close(posterior.probs(name), expected, rtol=0, atol=1e-10)
    assert posterior.log_evidence is not None
    torch.testing.assert_close(posterior.log_evidence.sum(), log_evidence, rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("case", ["two sites", "nested", "global context"])
def test_a_tempered_joint_has_the_marginals_of_its_power(
    case: str, temperature: float, generator: torch.Generator
) -> None:
    model, shapes = CASES[case]
    x = normal(generator, 6)
    posterior = Enumeration(temperature=temperature)(model, x)
    marginals, _ = brute_force(model, shapes, x, temperature=temperature)
    for name, expected in marginals.items():
        torch.testing.assert_close(posterior.probs(name), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_its_marginals_are_normalised(case: str, generator: torch.Generator) -> None:
    posterior = Enumeration()(CASES[case][0], normal(generator, 6))
    for log_probs in posterior.log_probs.values():
        total = log_probs.logsumexp(-1)
        torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-13)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_temperature_tempers_the_posterior(temperature: float, generator: torch.Generator) -> None:
    x, means, log_prior = normal(generator, 9), normal(generator, 4), random_log_prior(generator, 4)
    scores = gaussian_scores(x, means, 0.5, log_prior)
    posterior = Enumeration(temperature=temperature)(gaussian, x, means, 0.5, log_prior)
    torch.testing.assert_close(posterior.logits(), (scores / temperature).log_softmax(-1))
    assert posterior.objective is not None
    # The maximum of f_T is T log sum_k p(x, k)^(1 / T), at T = 1 the log evidence.
    best = temperature * (scores / temperature).logsumexp(-1)
    torch.testing.assert_close(posterior.objective.total, best)
    if temperature == 1:
        torch.testing.assert_close(posterior.log_evidence, best)
    else:
        assert posterior.log_evidence is None


def test_no_other_point_has_a_larger_objective(generator: torch.Generator) -> None:
    x, means, log_prior = normal(generator, 9), normal(generator, 4), random_log_prior(generator, 4)
    scores = gaussian_scores(x, means, 0.5, log_prior)
    best = Enumeration()(gaussian, x, means, 0.5, log_prior)
    assert best.objective is not None
    for _ in range(20):
        q = (best.logits() + 0.3 * normal(generator, 9, 4)).softmax(-1)
        value = (q * (scores - q.log())).sum(-1)
        assert (value <= best.objective.total + 1e-12).all()


def test_the_objective_of_a_posterior_with_a_forbidden_task_is_finite(
    generator: torch.Generator,
) -> None:
    posterior = Enumeration()(forbidden, normal(generator, 6))
    assert posterior.objective is not None
    torch.testing.assert_close(posterior.objective.total, posterior.log_evidence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_are_kept(
    dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> None:
    x, means, log_prior = normal(generator, 9), normal(generator, 4), random_log_prior(generator, 4)
    exact = gaussian_scores(x, means, 0.5, log_prior).softmax(-1)
    args = (x.to(device, dtype), means.to(device, dtype), 0.5, log_prior.to(device, dtype))
    posterior = Enumeration(chunk_size=3)(gaussian, *args)
    assert posterior.probs().dtype == dtype
    assert posterior.probs().device.type == device.type
    torch.testing.assert_close(
        posterior.probs().double().cpu(), exact, rtol=0, atol=100 * torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("x", [-300.0, 300.0])
def test_data_far_from_every_task_do_not_underflow(x: float) -> None:
    args = torch.tensor([x]), torch.tensor([0.0, 1.0, 2.0]), 0.1, torch.zeros(3)
    posterior = Enumeration()(gaussian, *args)
    torch.testing.assert_close(posterior.probs().sum(), torch.tensor(1.0))
    assert posterior.mode().item() == (0 if x < 0 else 2)


# Cost


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 64])
def test_memory_is_that_of_the_chunk(chunk_size: int | None, generator: torch.Generator) -> None:
    """K = 400: no run of the model sees more tasks at once than the chunk."""
    K, B = 400, 3
    means, x = normal(generator, K), normal(generator, B)
    seen: list[int] = []

    def model() -> None:
        with pyro.plate("sequence", B):
            prior = dist.OneHotCategorical(logits=torch.zeros(K, dtype=torch.float64))
            z = pyro.sample("z", prior, infer=TASK)
            seen.append(z.numel() // (B * K))
            pyro.sample("x", dist.Normal(z @ means, 0.5), obs=x)

    posterior = Enumeration(chunk_size=chunk_size)(model)
    exact = gaussian_scores(x, means, 0.5, torch.zeros(K, dtype=torch.float64)).softmax(-1)
    torch.testing.assert_close(posterior.probs(), exact)
    assert max(seen) == (chunk_size or 1)
    ends = {None: 0, 1: 1}.get(chunk_size, 2)  # tasks of the first chunk, tried alone
    checks = ends + MOST_SHIFTS + 1
    assert len(seen) == 1 + math.ceil((K - 1) / (chunk_size or 1)) + checks
    assert posterior.passes == (K, 0, checks)


@pytest.mark.parametrize(("K", "B"), [(400, 3), (400, 300), (3000, 100), (12, 10_000)])
def test_a_chunk_that_is_chosen_stays_in_its_budget(
    K: int, B: int, generator: torch.Generator
) -> None:
    means, x = normal(generator, K), normal(generator, B)
    seen: list[int] = []

    def model() -> None:
        with pyro.plate("sequence", B):
            prior = dist.OneHotCategorical(logits=torch.zeros(K, dtype=torch.float64))
            z = pyro.sample("z", prior, infer=TASK)
            seen.append(z.numel() // (B * K))
            pyro.sample("x", dist.Normal(means[z.argmax(-1)], 0.5), obs=x)

    posterior = Enumeration(check=False)(model)
    exact = gaussian_scores(x, means, 0.5, torch.zeros(K, dtype=torch.float64)).softmax(-1)
    torch.testing.assert_close(posterior.probs(), exact)
    most = max(seen)
    assert most == 1 or (most * B <= CHUNK_ELEMENTS and most * B * K <= CHUNK_NUMBERS)
    runs = math.ceil((K - 1) / max(1, min(CHUNK_ELEMENTS // B, CHUNK_NUMBERS // (B * K))))
    checks = 0 if most == 1 else 2
    assert len(seen) == 1 + runs + checks
    assert posterior.passes == (K, 0, checks)


def test_few_tasks_are_tried_one_by_one(generator: torch.Generator) -> None:
    x, log_prior = normal(generator, 9), torch.zeros(4, dtype=torch.float64)
    found = Enumeration(check=False)(gaussian, x, normal(generator, 4), 0.5, log_prior)
    assert found.passes == (4, 0, 0)


def raises(z: Tensor) -> Tensor:
    if z.ndim > 2:
        raise BufferError("not written for a leading dimension")
    return nonlinear(z)


def sums_over_all(z: Tensor) -> Tensor:
    """It scores the right shape, and a chunk of tasks is one sum."""
    return nonlinear(z.reshape(-1, *z.shape[-2:]).sum(0).expand(z.shape))


def first_task_of_all(z: Tensor) -> Tensor:
    return nonlinear(z.reshape(-1, *z.shape[-2:])[0])


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("network", "extra"), [(raises, 1), (sums_over_all, 1 + 1), (first_task_of_all, 1 + 2)]
)
def test_a_model_that_does_not_broadcast_goes_on_one_by_one(
    network: Callable[[Tensor], Tensor], extra: int, check: bool, generator: torch.Generator
) -> None:
    """The chunk that was tried in vain is a check, and so are its ends that were tried alone."""

    def model(x: Tensor) -> None:
        with pyro.plate("sequence", len(x)):
            a, b = (pyro.sample(n, prior_of(0.2, 0.5, 0.3), infer=TASK) for n in "ab")
            pyro.sample("x", dist.Normal(network(a) + 0.3 * network(b), 0.5), obs=x)

    x = normal(generator, 5)
    found = Enumeration(check=check)(model, x)
    singly = Enumeration(chunk_size=None, check=check)(model, x)
    torch.testing.assert_close(found.table().flat, singly.table().flat, rtol=0, atol=0)
    assert found.passes.forward == singly.passes.forward == 9
    assert found.passes.check == singly.passes.check + extra


def test_a_joint_costs_the_product_of_its_sites_and_has_a_limit(generator: torch.Generator) -> None:
    x = normal(generator, 6)
    one_by_one = Enumeration(chunk_size=None, max_joint=6)
    assert one_by_one(two_sites, x).passes == (6, 0, 3 + 1)
    assert replace(one_by_one, check=False)(two_sites, x).passes == (6, 0, 0)
    with pytest.raises(TaskSiteError) as error:
        Enumeration(max_joint=5)(two_sites, x)
    for part in ("'a'", "'b'", "6 joint tasks", "max_joint = 5", "OneStepGradient"):
        assert part in str(error.value)


def test_a_single_element_needs_no_check(generator: torch.Generator) -> None:
    assert Enumeration()(no_plate, normal(generator, 1)).passes == (3, 0, 0)


# Elements that influence each other


def carried(x: Tensor) -> None:
    """The mean of x_t depends on z_t and on z_t-1."""
    with pyro.plate("sequence", x.shape[0], dim=-2), pyro.plate("time", x.shape[1], dim=-1):
        z = pyro.sample("z", prior_of(0.3, 0.7), infer=TASK)
        now = nonlinear(z)
        past = torch.nn.functional.pad(now[..., :-1], (1, 0))
        pyro.sample("x", dist.Normal(now + 0.5 * past, 0.5), obs=x)


@pytest.mark.parametrize("shape", [(1, 2), (1, 3), (2, 2), (3, 2), (1, 10), (4, 6)])
def test_a_network_that_carries_past_tasks_is_refused(
    shape: tuple[int, int], generator: torch.Generator
) -> None:
    x = normal(generator, *shape)
    with pytest.raises(TaskSiteError) as error:
        Enumeration()(carried, x)
    for part in (
        "'z'",
        "influence each other",
        "expected a likelihood that factorises",
        "stepwise(",
    ):
        assert part in str(error.value)
    assert Enumeration(check=False)(carried, x).passes.check == 0


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()

    def forward(self, x: Tensor) -> None:
        with pyro.plate("sequence", len(x)):
            z = pyro.sample("z", prior_of(0.3, 0.7), infer=TASK)
            mean = self.net(z.reshape(-1, 2)).reshape(z.shape[:-1])
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_batch_statistics_couple_elements_in_training_mode_only(
    batch: int, generator: torch.Generator
) -> None:
    net, x = Normalised(), normal(generator, batch)
    with pytest.raises(TaskSiteError, match=r"BatchNorm1d in training mode.*eval\(\)"):
        Enumeration()(net.train(), x)
    assert Enumeration()(net.eval(), x).passes.check > 0


def test_an_observation_that_sums_over_inner_tasks_is_refused() -> None:
    """Its place is outside the plate of the tasks, so elements meet in it."""

    def model(T: int) -> None:
        with pyro.plate("sequence", 1, dim=-2):
            c = pyro.sample("c", prior_of(0.4, 0.6), infer=TASK)
            with pyro.plate("time", T, dim=-1):
                z = pyro.sample("z", prior_of(0.4, 0.6), infer=TASK)
                mean = nonlinear(z) + c[..., 0]
                pyro.sample("x", dist.Normal(mean, 0.5), obs=torch.zeros(1, T).double())
            total = nonlinear(z).sum(-1, keepdim=True)
            pyro.sample("y", dist.Normal(total, 0.5), obs=torch.ones(1, 1).double())

    for T in (1, 3):
        with pytest.raises(TaskSiteError, match="influence each other"):
            Enumeration()(model, T)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_observation_outside_the_plate_of_its_task_is_refused(batch: int) -> None:
    def model() -> None:
        with pyro.plate("sequence", batch):
            z = pyro.sample("z", prior_of(0.4, 0.6), infer=TASK)
        mean = nonlinear(z).sum(-1, keepdim=batch == 1)
        pyro.sample("y", dist.Normal(mean.sum(), 0.5), obs=torch.tensor(1.0).double())

    with pytest.raises(TaskSiteError, match="influence each other"):
        Enumeration()(model)


def test_plates_that_do_not_nest_are_refused() -> None:
    def model() -> None:
        rows, columns = pyro.plate("row", 2, dim=-2), pyro.plate("column", 3, dim=-1)
        with rows:
            a = pyro.sample("a", prior_of(0.4, 0.6), infer=TASK)
        with columns:
            b = pyro.sample("b", prior_of(0.4, 0.6), infer=TASK)
        with rows, columns:
            mean = nonlinear(a) + nonlinear(b)
            pyro.sample("x", dist.Normal(mean, 0.5), obs=torch.zeros(2, 3).double())

    with pytest.raises(TaskSiteError) as error:
        Enumeration()(model)
    for part in ("'a'", "'row'", "'b'", "'column'", "expected nested plates", "OneStepGradient"):
        assert part in str(error.value)


def test_impossible_data_are_an_error() -> None:
    def model() -> None:
        with pyro.plate("sequence", 3):
            z = pyro.sample("z", prior_of(0.5, 0.5), infer=TASK)
            width = z @ torch.tensor([1.0, 2.0], dtype=torch.float64)
            x = torch.tensor([0.5, 1.5, 9.0], dtype=torch.float64)
            with pyro.validation_enabled(False):
                noise = dist.Uniform(torch.zeros_like(width), width, validate_args=False)
            pyro.sample("x", noise, obs=x)

    with pytest.raises(TaskSiteError, match=r"no task of \['z'\] can have made .* element \(2,\)"):
        Enumeration()(model)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"max_joint": 1}, "max_joint must be at least 2"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        Enumeration(**options)
