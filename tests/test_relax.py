import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, log_joint_by_pyro, normal, random_log_prior
from torch import Tensor

from gbi_pyro import TaskSiteError, clamp_tasks, find_task_sites
from gbi_pyro.relax import SoftOneHot


def dirichlet(generator: torch.Generator, *shape: int) -> Tensor:
    return (2 * normal(generator, *shape)).softmax(-1)


def test_the_soft_prior_is_linear_and_agrees_with_the_categorical_at_corners(
    generator: torch.Generator,
) -> None:
    log_prior = random_log_prior(generator, 5, 4)
    corners = torch.eye(4, dtype=torch.float64).unsqueeze(1).expand(4, 5, 4)
    soft, hard = SoftOneHot(log_prior), dist.OneHotCategorical(logits=log_prior)
    torch.testing.assert_close(soft.log_prob(corners), hard.log_prob(corners))
    p, q = dirichlet(generator, 5, 4), dirichlet(generator, 5, 4)
    between = soft.log_prob(0.3 * p + 0.7 * q)
    torch.testing.assert_close(between, 0.3 * soft.log_prob(p) + 0.7 * soft.log_prob(q))


def test_a_forbidden_task_costs_nothing_unused_and_everything_used() -> None:
    prior = SoftOneHot(torch.tensor([0.25, 0.75, 0.0]).log())
    q = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    unused = prior.log_prob(q)
    torch.testing.assert_close(unused.detach(), torch.tensor(0.25 * 0.75).log() / 2)
    (slope,) = torch.autograd.grad(unused, q)
    assert slope.isfinite().all()
    used = prior.log_prob(torch.tensor([[0.5, 0.5, 0.0], [0.3, 0.3, 0.4]]))
    assert used[1] == -torch.inf
    assert used[0] == unused


def test_the_soft_prior_expands_like_any_distribution() -> None:
    prior = SoftOneHot(torch.tensor([0.5, 0.5]).log()).expand((4, 3))
    assert prior.batch_shape == (4, 3)
    assert prior.log_prob(torch.full((4, 3, 2), 0.5)).shape == (4, 3)


def test_clamping_at_corners_is_conditioning(generator: torch.Generator) -> None:
    x, means, log_prior = normal(generator, 3), normal(generator, 4), random_log_prior(generator, 4)
    labels = torch.eye(4, dtype=torch.float64)[[2, 0, 3]]
    clamped = clamp_tasks(gaussian, {"z": labels})
    trace = poutine.trace(clamped).get_trace(x, means, 0.5, log_prior)
    expected = log_joint_by_pyro(gaussian, {"z": labels}, x, means, 0.5, log_prior)
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_a_clamped_mixture_makes_the_network_predict_the_mixture() -> None:
    x, means, log_prior = torch.zeros(2), torch.tensor([0.0, 1.0]), torch.zeros(2)
    clamped = clamp_tasks(gaussian, {"z": torch.tensor([[0.25, 0.75], [1.0, 0.0]])})
    trace = poutine.trace(clamped).get_trace(x, means, 0.5, log_prior)
    torch.testing.assert_close(trace.nodes["x"]["fn"].mean, torch.tensor([0.75, 0.0]))
    assert trace.nodes["z"]["is_observed"]


def test_sites_that_are_not_clamped_stay_open() -> None:
    def model() -> None:
        prior = dist.OneHotCategorical(torch.ones(2))
        a, b = (pyro.sample(name, prior, infer=TASK) for name in "ab")
        pyro.sample("x", dist.Normal((a - b)[0], 1.0), obs=torch.tensor(0.0))

    assert list(find_task_sites(clamp_tasks(model, {"a": torch.tensor([0.5, 0.5])}))) == ["b"]


def test_a_mask_covers_given_tasks_however_it_is_put(generator: torch.Generator) -> None:
    mask, q = torch.tensor([True, False]), {"z": dirichlet(generator, 2, 2)}
    log_prior = torch.tensor([0.3, 0.7], dtype=torch.float64).log()

    def by_distribution() -> None:
        with pyro.plate("sequence", 2):
            pyro.sample("z", dist.OneHotCategorical(logits=log_prior).mask(mask), infer=TASK)

    def by_handler() -> None:
        with pyro.plate("sequence", 2), poutine.mask(mask=mask):
            pyro.sample("z", dist.OneHotCategorical(logits=log_prior), infer=TASK)

    expected = (q["z"][0] * log_prior).sum()
    for model in (by_distribution, by_handler):
        trace = poutine.trace(clamp_tasks(model, q)).get_trace()
        torch.testing.assert_close(trace.log_prob_sum(), expected)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"z": torch.tensor([0.5, 0.5])}, "expected (2, 2)"),
        ({"z": torch.tensor([[2.0, -1.0], [1.0, 0.0]])}, "off the simplex"),
        ({"y": torch.tensor([0.5, 0.5])}, "'y' is not a task site"),
    ],
)
def test_clamping_checks_names_and_points(values: dict[str, Tensor], part: str) -> None:
    model = clamp_tasks(gaussian, values)
    with pytest.raises(TaskSiteError) as error:
        model(torch.zeros(2), torch.tensor([0.0, 1.0]), 0.5, torch.zeros(2))
    assert part in str(error.value)
