"""Chosen combinations of tasks are scored exactly, each element its own."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from gbi_pyro import Enumeration, TaskSiteError
from gbi_pyro.inference._combinations import Scorer
from gbi_pyro.joint import combinations
from gbi_pyro.logjoint import RelaxedModel

F64 = torch.float64
TASK = {"task": True}


def pair(x: Tensor) -> None:
    """Two tasks of a case, that see each other."""
    means = torch.tensor([[0.0, 1.0, 0.5], [2.0, -1.0, 0.3]], dtype=F64)
    with pyro.plate("case", len(x)):
        a = pyro.sample("a", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
        b = pyro.sample("b", dist.OneHotCategorical(torch.ones(3, dtype=F64)), infer=TASK)
        mean = torch.einsum("...i,...j,ij->...", a, b, means)
        pyro.sample("x", dist.Normal(mean, 0.5), obs=x)


def scorer(model: object, x: Tensor, **options: object) -> Scorer:
    run = RelaxedModel(model, (x,))  # type: ignore[arg-type]
    return Scorer(run, run.log_joint(lambda s: s.uniform()), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk_size", [None, 4, 64])
def test_all_combinations_make_the_exact_posterior(chunk_size: int | None) -> None:
    x = torch.tensor([0.1, 1.2, -0.4], dtype=F64)
    score = scorer(pair, x, chunk_size=chunk_size)
    ids = {n: k[:, None].expand(6, 3) for n, k in combinations({"a": 2, "b": 3}).items()}
    scores = score(ids)
    exact = Enumeration()(pair, x)
    torch.testing.assert_close(scores.logsumexp(0), exact.log_evidence, rtol=0, atol=1e-12)
    torch.testing.assert_close(scores.log_softmax(0).T, exact.table().flat, rtol=0, atol=1e-12)
    assert score.run.passes.forward == 6


def test_elements_have_combinations_of_their_own() -> None:
    x = torch.tensor([0.1, 1.2, -0.4], dtype=F64)
    ids = {"a": torch.tensor([[0, 1, 0]]), "b": torch.tensor([[2, 0, 1]])}
    means = torch.tensor([0.5, 2.0, 1.0], dtype=F64)
    expected = dist.Normal(means, 0.5).log_prob(x) - torch.tensor(6.0, dtype=F64).log()
    torch.testing.assert_close(scorer(pair, x)(ids)[0], expected, rtol=0, atol=1e-12)


def test_elements_that_influence_each_other_are_refused() -> None:
    def smeared(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1].cumsum(-1), 1.0), obs=x)

    ids = {"z": torch.tensor([[0] * 3, [1] * 3])}
    with pytest.raises(TaskSiteError, match="changes with the tasks of others"):
        scorer(smeared, torch.zeros(3, dtype=F64))(ids)


def test_data_outside_of_the_plate_that_depend_on_tasks_are_refused() -> None:
    def summed(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1], 1.0), obs=x)
        pyro.sample("y", dist.Normal(z[..., 1].sum(-1), 1.0), obs=torch.tensor(1.0, dtype=F64))

    ids = {"z": torch.tensor([[0] * 3, [1] * 3])}
    with pytest.raises(TaskSiteError, match="changes with the tasks of others"):
        scorer(summed, torch.zeros(3, dtype=F64), chunk_size=None)(ids)


def test_the_gradient_at_corners() -> None:
    x = torch.tensor([0.1, 1.2, -0.4], dtype=F64)
    ids = {"a": torch.tensor([[0, 1, 0], [1, 1, 0]]), "b": torch.tensor([[2, 0, 1], [1, 2, 0]])}
    for chunk_size in (None, 64):
        score = scorer(pair, x, chunk_size=chunk_size)
        scores, slopes = score.with_gradient(ids)
        torch.testing.assert_close(scores, score(ids), rtol=0, atol=1e-12)
        means = torch.tensor([[0.0, 1.0, 0.5], [2.0, -1.0, 0.3]], dtype=F64)
        pull = (x - means[ids["a"], ids["b"]]) / 0.25
        expected = pull.unsqueeze(-1) * means[:, ids["b"]].movedim(0, -1) - torch.log(
            torch.tensor(2.0, dtype=F64)
        )
        torch.testing.assert_close(slopes["a"], expected, rtol=0, atol=1e-12)
        assert score.run.passes.forward == 4
        assert score.run.passes.backward == 2


def test_a_model_that_does_not_broadcast_is_refused() -> None:
    def indexed(x: Tensor) -> None:
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            first = z.reshape(-1, 2)[: len(x), 1]
            pyro.sample("x", dist.Normal(first, 1.0), obs=x)

    ids = {"z": torch.tensor([[0] * 3, [1] * 3])}
    score = scorer(indexed, torch.zeros(3, dtype=F64))
    with pytest.raises(TaskSiteError, match="give chunk_size=None"):
        score(ids)


def test_sites_in_different_plates_are_refused() -> None:
    def nested(x: Tensor) -> None:
        pyro.sample("a", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
        with pyro.plate("case", len(x)):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2, dtype=F64)), infer=TASK)
            pyro.sample("x", dist.Normal(z[..., 1], 1.0), obs=x)

    with pytest.raises(TaskSiteError, match="same plates"):
        scorer(nested, torch.zeros(3, dtype=F64))
