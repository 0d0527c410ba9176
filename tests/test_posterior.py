import math

import pytest
import torch
from pyro_models import normal
from torch import Tensor

from gbi_pyro import TaskPosterior, TaskSiteError
from gbi_pyro.posterior import Objective, detached, entropy
from gbi_pyro.sites import TaskSite


def posterior_of(**log_probs: Tensor) -> TaskPosterior:
    sites = {n: TaskSite(n, p, (None,) * (p.ndim - 1)) for n, p in log_probs.items()}
    return TaskPosterior(log_probs, sites, "example")


def test_samples_have_the_frequencies_of_the_posterior(generator: torch.Generator) -> None:
    log_probs = normal(generator, 2, 3, 4).log_softmax(-1)
    n = 20_000
    ids = posterior_of(z=log_probs).sample(n, generator=generator)["z"]
    assert ids.shape == (n, 2, 3)
    frequencies = torch.nn.functional.one_hot(ids, 4).double().mean(0)
    p = log_probs.exp()
    assert ((frequencies - p).abs() <= 5 * (p * (1 - p) / n).sqrt()).all()


def test_elements_and_sites_are_drawn_independently(generator: torch.Generator) -> None:
    even = torch.full((2, 2), 0.5).log()
    n = 20_000
    draws = posterior_of(a=even, b=even[0]).sample(n, generator=generator)
    a, b = draws["a"].double(), draws["b"].double()
    assert b.shape == (n,)
    for left, right in ((a[:, 0], a[:, 1]), (a[:, 0], b), (a[:-1, 0], a[1:, 0])):
        agree = (left == right).double().mean()
        assert abs(agree - 0.5) <= 5 * math.sqrt(0.25 / n)


def test_samples_come_from_the_generator_alone() -> None:
    posterior = posterior_of(z=torch.full((5, 3), 1 / 3).log())
    state = torch.get_rng_state()
    first, again = (
        posterior.sample(50, generator=torch.Generator().manual_seed(7))["z"] for _ in range(2)
    )
    other = posterior.sample(50, generator=torch.Generator().manual_seed(8))["z"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_impossible_tasks_are_never_drawn(generator: torch.Generator) -> None:
    posterior = posterior_of(z=torch.tensor([[0.5, 0.0, 0.5]]).log())
    assert not (posterior.sample(1000, generator=generator)["z"] == 1).any()


def test_entropy_runs_from_zero_to_log_k() -> None:
    probs = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    expected = torch.tensor([0.0, math.log(2), math.log(3)])
    torch.testing.assert_close(posterior_of(z=probs.log()).entropy(), expected)


def test_entropy_is_concave(generator: torch.Generator) -> None:
    p, q = normal(generator, 50, 4).softmax(-1), normal(generator, 50, 4).softmax(-1)
    between = entropy((0.3 * p + 0.7 * q).log())
    assert (between >= 0.3 * entropy(p.log()) + 0.7 * entropy(q.log()) - 1e-12).all()


def test_probs_task_and_point_agree(generator: torch.Generator) -> None:
    log_probs = normal(generator, 2, 5, 3).log_softmax(-1)
    posterior = posterior_of(z=log_probs)
    torch.testing.assert_close(posterior.probs().sum(-1), torch.ones(2, 5).double())
    assert torch.equal(posterior.logits("z"), log_probs)
    assert torch.equal(posterior.mode(), posterior.probs().argmax(-1))
    assert torch.equal(posterior.point(), posterior.probs())
    free = normal(generator, 2, 5, 3)
    moved = TaskPosterior({"z": log_probs}, posterior.sites, "free", points={"z": free})
    assert torch.equal(moved.point(), free)
    assert torch.equal(moved.probs(), posterior.probs())


def test_sites_are_called_by_name() -> None:
    even = torch.tensor([0.5, 0.5]).log()
    one, two = posterior_of(z=even), posterior_of(a=even, b=even)
    assert one.site_name() == "z"
    assert two.site_name("b") == "b"
    with pytest.raises(TaskSiteError, match=r"2 task sites, \['a', 'b'\].*name it"):
        two.probs()
    for posterior, known in ((one, "'z'"), (two, "'a', 'b'")):
        with pytest.raises(TaskSiteError) as error:
            posterior.entropy("y")
        assert "'y' is not a task site" in str(error.value)
        assert known in str(error.value)


def test_the_objective_is_the_sum_of_its_parts() -> None:
    objective = Objective(torch.tensor([-2.0]), torch.tensor([0.5]), temperature=3.0)
    assert objective.total == torch.tensor([-0.5])


def test_detached_sites_keep_all_but_the_graph() -> None:
    log_prior = torch.zeros(2, 3, requires_grad=True) * 1.0
    site = TaskSite("z", log_prior, (None,))
    cut = detached({"z": site})["z"]
    assert not cut.log_prior.requires_grad
    assert torch.equal(cut.log_prior, log_prior)
    assert cut.dims == ("z_dim_0",)
