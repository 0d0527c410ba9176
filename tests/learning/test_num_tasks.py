import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from gbi_pyro import Enumeration, GradientEM, OneStepGradient, TaskPrior
from gbi_pyro.learning import CollapseWarning, choose_num_tasks, one_standard_error
from gbi_pyro.learning.em import Infer


def test_the_smallest_number_within_one_standard_error_is_chosen() -> None:
    best = torch.tensor([1.0, 2.0, 3.0, 4.0])
    error = (best.std() / 2).item()
    scores = {1: best - 2 * error, 2: best - 0.9 * error, 3: best, 4: best - 1e-6}
    choice = one_standard_error(scores)
    assert choice.num_tasks == 2
    assert choice.standard_error == pytest.approx(error)
    assert one_standard_error({k: v for k, v in scores.items() if k != 2}).num_tasks == 3


def test_the_order_of_the_candidates_does_not_matter(generator: torch.Generator) -> None:
    scores = {k: torch.randn(20, generator=generator) for k in (1, 2, 3, 4)}
    backwards = dict(reversed(scores.items()))
    assert one_standard_error(scores) == one_standard_error(backwards)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "no candidate"),
        ({1: torch.ones(3), 2: torch.ones(4)}, "expected the same ones for all"),
        ({1: torch.tensor([0.0, torch.nan])}, r"K = \[1\] hold NaN"),
        ({1: torch.ones(())}, "N >= 2"),
    ],
)
def test_invalid_scores_are_errors(scores: dict[int, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_standard_error(scores)


def test_one_element_has_no_standard_error() -> None:
    with pytest.raises(ValueError, match="N >= 2"):
        one_standard_error({1: torch.ones(1)})


class Clusters(nn.Module):
    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.linspace(-1, 2, num_tasks))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("trial", len(x)):
            prior = dist.OneHotCategorical(torch.ones(len(self.means)))
            z = pyro.sample("z", prior, infer={"task": True})
            pyro.sample("x", dist.Normal(z @ self.means, 0.2), obs=x)


def trained(num_tasks: int, x: Tensor, e_step: Infer) -> GradientEM:
    model = Clusters(num_tasks)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    em = GradientEM(model, e_step, optimiser, prior=TaskPrior.uniform(num_tasks, learn=True))
    for _ in range(60):
        em.step(x)
    return em


@pytest.mark.parametrize("true", [2, 3])
def test_the_number_of_clusters_is_found(true: int, generator: torch.Generator) -> None:
    means = torch.tensor([-1.0, 0.5, 2.0])[[0, 2] if true == 2 else [0, 1, 2]]
    x, held_out = (
        means[torch.randint(true, (200,), generator=generator)]
        + 0.2 * torch.randn(200, generator=generator)
        for _ in range(2)
    )
    found = choose_num_tasks(lambda K: trained(K, x, Enumeration()), (2, 3, 4), held_out)
    assert found.choice.num_tasks == true == len(found.em.model.means)  # type: ignore[attr-defined]
    evidence = found.em.infer(held_out).log_evidence
    assert evidence is not None
    assert found.choice.scores[true] == pytest.approx(evidence.mean().item())


def test_an_inference_without_evidence_cannot_choose() -> None:
    x = torch.tensor([0.0, 1.0, 0.1, 0.9])
    with pytest.raises(ValueError, match=r"2 tasks should know the log evidence.*Enumeration"):
        choose_num_tasks(lambda K: trained(K, x, OneStepGradient()), (2, 3), x)


def test_the_collapse_of_the_chosen_training_is_warned_of() -> None:
    x = torch.tensor([0.0, 0.1, -0.1, 0.05])  # one task, where two are the fewest that are tried
    with pytest.warns(CollapseWarning, match=r"of \[2, 3\] tasks 2 were chosen: 1 of 2"):
        choose_num_tasks(lambda K: trained(K, x, Enumeration()), (2, 3), x)
