import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models import TASK
from torch import Tensor, nn

from gbi_pyro import Enumeration
from gbi_pyro.data import SwitchingStream
from gbi_pyro.learning import CollapseWarning, GradientEM, best_of, match_labels, window_labels

TRUTH = (0.1, 0.5, 0.9)


class Mixture(nn.Module):
    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.means = nn.Parameter(means.clone())

    def forward(self, x: Tensor) -> None:
        with pyro.plate("sequence", x.shape[0], dim=-2), pyro.plate("time", x.shape[1], dim=-1):
            prior = dist.OneHotCategorical(torch.ones_like(self.means))
            z = pyro.sample("z", prior, infer=TASK)
            pyro.sample("x", dist.Normal(z @ self.means, 0.1), obs=x)


STARTS = {0: (0.5, 0.5, 0.5), 1: (0.0, 0.4, 1.0), 2: (0.5, 5.0, 0.5), 3: (0.9, 0.9, 0.9)}


def make(seed: int) -> GradientEM:
    model = Mixture(torch.tensor(STARTS[seed]))
    return GradientEM(model, Enumeration(check=False), torch.optim.Adam(model.parameters(), 0.02))


def test_the_start_with_the_most_evidence_is_kept(generator: torch.Generator) -> None:
    """One start of four reaches all three tasks; the evidence says which, without labels."""
    data = SwitchingStream(TRUTH).sample(8, 50, generator)
    found = best_of(make, STARTS, 60, data.x)
    assert found.seed == 1
    assert max(found.objectives, key=lambda s: found.objectives[s]) == 1
    assert set(found.objectives) == set(STARTS)
    assert not found.report.collapsed
    error = (found.best.model.means.detach() - torch.tensor(TRUTH)).abs().max()  # type: ignore[attr-defined]
    assert error < 5 * 0.1 / data.z.flatten().bincount().min().sqrt()


def test_a_collapse_of_the_best_is_never_silent(generator: torch.Generator) -> None:
    x = SwitchingStream(TRUTH).sample(4, 50, generator).x
    with pytest.warns(CollapseWarning, match=r"best of 2 .*: the output does") as seen:
        found = best_of(make, [0, 3], 60, x)  # long enough for each to warn by itself
    assert len(seen) == 1
    assert found.report.collapsed


def test_a_training_that_diverged_is_never_the_best(generator: torch.Generator) -> None:
    x = SwitchingStream(TRUTH).sample(4, 50, generator).x

    def make_one(seed: int) -> GradientEM:
        em = make(1)
        if seed == 0:
            step = em.step

            def diverged(*args: Tensor, labels: Tensor | None = None) -> float:
                value = step(*args, labels=labels)
                em.history[-1] = em.history[-1].__class__(
                    **{**em.history[-1].__dict__, "log_evidence": float("nan")}
                )
                return value

            em.step = diverged  # type: ignore[method-assign]
        return em

    assert best_of(make_one, [0, 1], 3, x).seed == 1
    with pytest.raises(ValueError, match="no training came to a finite objective"):
        best_of(make_one, [0], 3, x)


def test_starting_labels_lead_any_start_to_all_tasks(generator: torch.Generator) -> None:
    x = SwitchingStream(TRUTH).sample(8, 50, generator).x
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        found = best_of(
            make, [3], 20, x, start=lambda seed: window_labels(x, 3, 5, seed), start_steps=50
        )
    assert len(found.best.history) == 70
    assert found.report.num_used == 3


@pytest.mark.parametrize("means", [(0.2, 0.8), TRUTH, (0.1, 0.3, 0.5, 0.7, 0.9)])
def test_windows_guess_most_tasks(means: tuple[float, ...], generator: torch.Generator) -> None:
    """A window of 5 scatters by .045, and a block ends in one of seven of them."""
    data = SwitchingStream(means).sample(10, 100, generator)
    K = len(means)
    best = 0.0
    for seed in range(5):
        labels = window_labels(data.x, K, 5, seed)
        assert labels.shape == data.x.shape
        names = match_labels(torch.nn.functional.one_hot(labels, K).double(), data.z)
        best = max(best, (names[data.z] == labels).double().mean().item())
    assert best > 0.85


def test_windows_of_vectors_and_of_uneven_length(generator: torch.Generator) -> None:
    x = torch.zeros(1, 7, 2)
    x[0, 4:] = 1.0
    labels = window_labels(x, 2, 4, 0)
    assert labels.shape == (1, 7)
    assert labels[0, :4].unique().numel() == labels[0, 4:].unique().numel() == 1
    assert labels[0, 0] != labels[0, -1]


def test_the_same_seed_guesses_the_same(generator: torch.Generator) -> None:
    x = SwitchingStream(TRUTH).sample(4, 50, generator).x
    before = torch.get_rng_state()
    assert torch.equal(window_labels(x, 3, 5, 1), window_labels(x, 3, 5, 1))
    assert torch.equal(before, torch.get_rng_state())


def test_invalid_arguments_are_errors() -> None:
    x = torch.zeros(2, 10)
    for window in (0, 11):
        with pytest.raises(ValueError, match=r"window must lie in 1 \.\. 10"):
            window_labels(x, 2, window, 0)
    with pytest.raises(ValueError, match="2 windows of 10 steps, fewer than its 3 tasks"):
        window_labels(x, 3, 10, 0)
    with pytest.raises(ValueError, match="num_steps >= 1"):
        best_of(make, [0], 0, x)
    with pytest.raises(ValueError, match="start_steps >= 0"):
        best_of(make, [0], 1, x, start_steps=-1)
    with pytest.raises(ValueError, match="give seeds"):
        best_of(make, [], 1, x)
