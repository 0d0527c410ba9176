import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models import TASK, gaussian, log_joint_by_pyro

from gbi_pyro import TaskSiteError, find_task_sites, relaxed_log_joint

X = torch.tensor([0.2, 0.8, 0.5])
MEANS = torch.tensor([0.2, 0.8])
PRIOR = torch.tensor([0.3, 0.7])


def message_of(call: object, *args: object, **kwargs: object) -> str:
    with pytest.raises(TaskSiteError) as error:
        call(*args, **kwargs)  # type: ignore[operator]
    return str(error.value)


def assert_says(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message


def with_prior(prior: dist.TorchDistribution, marks: dict[str, bool] | None = None) -> None:
    with pyro.plate("sequence", 3):
        z = pyro.sample("z", prior, infer=TASK if marks is None else marks)
        pyro.sample("x", dist.Normal(z @ MEANS[: z.shape[-1]], 0.1), obs=X)


def test_a_site_is_read_with_its_prior_its_plates_and_its_elements() -> None:
    def model(x: torch.Tensor) -> None:
        sequences = pyro.plate("sequence", x.shape[0], dim=-2)
        with sequences, pyro.plate("time", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
            pyro.sample("x", dist.Normal(z @ MEANS, 0.1), obs=x)
        with sequences:
            pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(4)), infer=TASK)

    sites = find_task_sites(model, torch.zeros(2, 5))
    assert list(sites) == ["z", "y"]
    z, y = sites["z"], sites["y"]
    assert (z.num_tasks, z.batch_shape, z.dims) == (2, (2, 5), ("sequence", "time"))
    assert (y.num_tasks, y.batch_shape, y.dims) == (4, (2, 1), ("sequence", "y_dim_1"))
    torch.testing.assert_close(z.log_prior, PRIOR.log().expand(2, 5, 2))
    torch.testing.assert_close(y.uniform(), torch.full((2, 1, 4), 0.25))
    assert not z.log_prior.requires_grad


def test_corners_are_the_vertices_of_the_simplex() -> None:
    site = find_task_sites(gaussian, X, MEANS, 0.1, PRIOR.log())["z"]
    corners = site.corner(torch.arange(2))
    assert corners.shape == (2, 3, 2)
    torch.testing.assert_close(corners, torch.eye(2).unsqueeze(1).expand(2, 3, 2))
    torch.testing.assert_close(site.corner(1), corners[1])
    torch.testing.assert_close(corners.mean(0), site.uniform())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sites_take_the_dtype_and_device_of_their_prior(
    dtype: torch.dtype, device: torch.device
) -> None:
    x, means, prior = (t.to(device, dtype) for t in (X, MEANS, PRIOR.log()))
    site = find_task_sites(gaussian, x, means, 0.1, prior)["z"]
    for value in (site.log_prior, site.uniform(), site.corner(torch.tensor(1))):
        assert (value.dtype, value.device.type) == (dtype, device.type)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smallest", [0.0, 1e-30, 0.25])
def test_small_probabilities_and_forbidden_tasks_are_read_as_they_are(
    smallest: float, dtype: torch.dtype
) -> None:
    probs = torch.tensor([smallest, 1 - smallest], dtype=dtype)
    by_probs = dist.OneHotCategorical(probs)
    by_scores = dist.OneHotCategorical(logits=probs.log()) if smallest else by_probs
    for prior in (by_probs, by_scores, by_probs.expand((3,)), by_scores.expand((3,))):
        site = find_task_sites(lambda p=prior: pyro.sample("z", p, infer=TASK))["z"]
        torch.testing.assert_close(site.log_prior, probs.log().expand(prior.shape()))


def test_scores_far_below_zero_stay_finite() -> None:
    scores = torch.tensor([-200.0, 0.0])
    prior = dist.OneHotCategorical(logits=scores).expand((3,))
    site = find_task_sites(lambda: pyro.sample("z", prior, infer=TASK))["z"]
    torch.testing.assert_close(site.log_prior, scores.expand(3, 2))


def test_a_sequential_plate_gives_a_site_for_each_element() -> None:
    def model() -> None:
        for i in pyro.plate("sequence", 3):
            z = pyro.sample(f"z_{i}", dist.OneHotCategorical(PRIOR), infer=TASK)
            pyro.sample(f"x_{i}", dist.Normal(z @ MEANS, 0.1), obs=X[i])

    assert [s.batch_shape for s in find_task_sites(model).values()] == [()] * 3


def test_labels_given_as_data_leave_nothing_to_find() -> None:
    labelled = poutine.condition(gaussian, {"z": torch.eye(2)[[0, 1, 1]]})
    message = message_of(find_task_sites, labelled, X, MEANS, 0.1, PRIOR.log())
    assert_says(message, "no task site", "OneHotCategorical", "found none", "Mark the site")


def test_an_unmarked_model_has_no_task_site() -> None:
    message = message_of(find_task_sites, lambda: with_prior(dist.OneHotCategorical(PRIOR), {}))
    assert_says(message, "expected at least one", "infer={'task': True}")


def test_an_event_dimension_on_a_task_is_refused() -> None:
    def model() -> None:
        pyro.sample("z", dist.OneHotCategorical(PRIOR.expand(3, 2)).to_event(1), infer=TASK)

    assert_says(
        message_of(find_task_sites, model),
        "'z'",
        "event of 2 dimensions",
        "one OneHotCategorical per plate element",
        "drop .to_event",
    )


def test_an_integer_task_is_refused() -> None:
    def model() -> None:
        pyro.sample("z", dist.Categorical(PRIOR), infer=TASK)

    message = message_of(find_task_sites, model)
    assert_says(message, "'z'", "a Categorical", "expected a OneHotCategorical", "matmul")


def test_a_single_task_is_refused() -> None:
    message = message_of(find_task_sites, lambda: with_prior(dist.OneHotCategorical(torch.ones(1))))
    assert_says(message, "'z'", "K = 1", "at least 2 tasks", "drop")


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (torch.tensor([0.5, 0.5]), ("shape (2,)", "expected (3, 2)", "'sequence'")),
        (torch.full((3, 3), 1 / 3), ("shape (3, 3)", "expected (3, 2)")),
        (torch.tensor([[1.2, -0.2]] * 3), ("off the simplex", "smallest number of -0.2")),
        (torch.tensor([[0.6, 0.6]] * 3), ("off the simplex", "sum of 1.2", "softmax")),
        (torch.full((3, 2), torch.nan), ("off the simplex", "nan")),
    ],
    ids=["no batch", "K", "negative", "sum", "nan"],
)
def test_points_that_do_not_fit_are_refused(value: torch.Tensor, parts: tuple[str, ...]) -> None:
    message = message_of(relaxed_log_joint, gaussian, {"z": value}, X, MEANS, 0.1, PRIOR.log())
    assert_says(message, "'z'", "expected", *parts)


@pytest.mark.parametrize("K", [2, 400])
def test_a_float32_softmax_is_on_the_simplex(K: int, generator: torch.Generator) -> None:
    q = (10 * torch.randn(1000, K, generator=generator)).softmax(-1)
    x, means = torch.zeros(1000), torch.linspace(0, 1, K)
    joint = relaxed_log_joint(gaussian, {"z": q}, x, means, 0.1, torch.zeros(K))
    assert joint.total.isfinite()


def test_a_missing_and_an_unknown_name_are_distinguished() -> None:
    q, args = torch.full((3, 2), 0.5), (X, MEANS, 0.1, PRIOR.log())
    missing = message_of(relaxed_log_joint, gaussian, {"y": q}, *args)
    assert_says(missing, "'z' was given no point", "'y'", "name it")
    unknown = message_of(relaxed_log_joint, gaussian, {"z": q, "y": q}, *args)
    assert_says(unknown, "'y' is not a task site", "are: 'z'", "correct the name")


def test_an_unmarked_latent_site_is_named_with_two_fixes() -> None:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.OneHotCategorical(PRIOR), infer=TASK)
        pyro.sample("x", dist.Normal(z @ MEANS + w, 0.1), obs=X[0])

    q = {"z": torch.tensor([0.5, 0.5])}
    message = message_of(relaxed_log_joint, model, q)
    assert_says(message, "'w'", "neither observed nor a task", "mark it", "poutine.condition")
    given = poutine.condition(model, {"w": torch.tensor(0.3)})
    corner = {"z": torch.tensor([0.0, 1.0])}
    torch.testing.assert_close(
        relaxed_log_joint(given, corner).total, log_joint_by_pyro(given, corner)
    )
