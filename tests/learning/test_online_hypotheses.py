import math
import warnings
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro_models import normal
from torch import Tensor, nn

from gbi_pyro.data import GeometricBlocks, SwitchingStream
from gbi_pyro.inference import TaskChain
from gbi_pyro.learning import CollapseWarning, OnlineEM, OnlineHypotheses, match_labels

F64 = torch.float64


class Steps(nn.Module):
    """x_t ~ Normal(mu_z, sigma), memoryless."""

    def __init__(self, means: Tensor, sigma: float = 0.5) -> None:
        super().__init__()
        self.means = nn.Parameter(means.clone())
        self.log_sigma = nn.Parameter(torch.tensor(sigma, dtype=means.dtype).log())

    def step(self, previous: Tensor, z: Tensor, state: Any) -> tuple[dist.Normal, Any]:
        return dist.Normal(z @ self.means, self.log_sigma.exp(), validate_args=False), state

    def initial_state(self, *batch_shape: int) -> None:
        return None


def learner(means: Tensor, sigma: float = 0.5, rate: float = 0.01, hazard: float = 0.04) -> Any:
    network = Steps(means, sigma)
    optim = torch.optim.SGD(network.parameters(), lr=rate)
    return OnlineEM(network, optim, TaskChain.sticky(len(means), hazard))


def stream(steps: int, generator: torch.Generator, **options: Any) -> tuple[Tensor, Tensor]:
    data = SwitchingStream(**options).sample(1, steps, generator, dtype=F64)
    return data.x[0], data.z[0]


def log_probs(starts: list[Tensor], x: Tensor, **options: Any) -> np.ndarray:
    """What each learner alone predicts, ``(H, T)``."""
    return np.stack([learner(m, **options).run(x).log_prob.numpy() for m in starts])


def test_one_hypothesis_is_online_em(generator: torch.Generator) -> None:
    (x, _), means = stream(200, generator), normal(generator, 3)
    alone = learner(means).run(x)
    several = OnlineHypotheses([learner(means)]).run(x)
    assert all(map(torch.equal, alone, several))


@pytest.mark.parametrize("memory", [math.inf, 20.0])
def test_the_best_predictor_of_the_past_predicts_and_of_the_present_infers(
    memory: float, generator: torch.Generator
) -> None:
    """Scores are discounted sums of the log predictive densities before each update."""
    x, _ = stream(60, generator)
    starts = [normal(generator, 2) for _ in range(4)]
    alone = log_probs(starts, x)
    em = OnlineHypotheses([learner(m) for m in starts], memory=memory)
    run = em.run(x)
    weights = (1 - 1 / memory) ** np.arange(len(x))
    scores = np.stack([alone[:, : t + 1] @ weights[t::-1] for t in range(len(x))])
    leaders = np.array([0, *scores.argmax(-1)])
    assert len(set(leaders)) > 1  # else it shows nothing
    np.testing.assert_allclose(run.log_prob, alone[leaders[:-1], np.arange(len(x))], rtol=1e-12)
    np.testing.assert_allclose(em.scores, scores[-1] - scores[-1].max(), rtol=1e-5, atol=1e-5)
    assert em.best == leaders[-1]
    assert em.leader is em.learners[em.best]


def test_the_code_exceeds_the_best_one_by_what_leaders_are_overtaken_by(
    generator: torch.Generator,
) -> None:
    """An identity of following the leader, with scores of the whole past."""
    x, _ = stream(80, generator)
    starts = [normal(generator, 2) for _ in range(3)]
    alone = log_probs(starts, x)
    run = OnlineHypotheses([learner(m) for m in starts], memory=math.inf).run(x)
    total = np.concatenate([np.zeros((3, 1)), alone.cumsum(-1)], -1)
    leaders = total.argmax(0)
    overtaken = sum(total[leaders[t + 1], t + 1] - total[leaders[t], t + 1] for t in range(len(x)))
    best = total[:, -1].max()
    assert best - run.log_prob.sum().item() == pytest.approx(overtaken, abs=1e-4)  # float32


def test_the_order_of_tasks_in_a_hypothesis_does_not_count(generator: torch.Generator) -> None:
    """Whoever leads, its tasks keep the names that the first leader gave."""
    x, _ = stream(300, generator, means=(0.2, 0.5, 0.8), sigma=0.1)
    first = torch.tensor([0.3, 0.52, 0.7], dtype=F64)
    better = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    runs = []
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        em = OnlineHypotheses([learner(first, 0.1, 0.0), learner(better[order], 0.1, 0.0)])
        runs.append(em.run(x))
        assert em.best == 1
        assert em.order.tolist() == np.argsort(order).tolist()
        torch.testing.assert_close(em.chain.log_transition, em.leader.chain.log_transition)
    for run in runs[1:]:
        torch.testing.assert_close(run.filtered, runs[0].filtered)
        torch.testing.assert_close(run.predicted, runs[0].predicted)
        torch.testing.assert_close(run.mean, runs[0].mean)


def test_nothing_after_t_moves_what_is_returned_at_t(generator: torch.Generator) -> None:
    x, _ = stream(40, generator)
    later = x.clone()
    later[25:] += 0.5
    starts = [normal(generator, 2) for _ in range(3)]
    a, b = (OnlineHypotheses([learner(m) for m in starts]).run(data) for data in (x, later))
    assert torch.equal(a.filtered[:25], b.filtered[:25])
    assert torch.equal(a.predicted[:26], b.predicted[:26])
    assert not torch.equal(a.filtered[25], b.filtered[25])


def test_the_hazard_is_learned_by_choice_where_one_learner_keeps_its_guess(
    generator: torch.Generator,
) -> None:
    """Blocks of ten steps under much noise: the chain of the right hazard is chosen."""
    x, z = stream(600, generator, sigma=0.3, blocks=GeometricBlocks(0.1))
    means = torch.tensor([0.2, 0.8], dtype=F64)
    hazards = (0.01, 0.03, 0.1, 0.3)
    em = OnlineHypotheses([learner(means, 0.3, 0.0, h) for h in hazards], memory=math.inf)
    run = em.run(x)
    assert em.chain.hazard == pytest.approx(0.1)
    assert (run.filtered[300:].argmax(-1) == z[300:]).double().mean() > 0.85


def test_a_start_that_misses_a_task_is_left(generator: torch.Generator) -> None:
    x, z = stream(400, generator, means=(0.1, 0.5, 0.9), sigma=0.05)
    starts = [torch.tensor(m, dtype=F64) for m in ([0.1, 0.7, 0.7], [0.15, 0.5, 0.85])]
    em = OnlineHypotheses([learner(m, 0.1, 1e-4) for m in starts])
    q = em.run(x).filtered[-200:]
    names = match_labels(q, z[-200:])
    assert (q.argmax(-1) == names[z[-200:]]).double().mean() > 0.95
    assert em.best == 1


def test_memory_does_not_grow(generator: torch.Generator) -> None:
    em = OnlineHypotheses([learner(normal(generator, 2)) for _ in range(3)])

    def kept() -> int:
        arrays = [v for v in vars(em).values() if hasattr(v, "nbytes")]
        lists = [v for v in vars(em).values() if isinstance(v, list | dict)]
        return sum(a.nbytes for a in arrays) + sum(map(len, lists))

    em.run(normal(generator, 2))
    before = kept()
    em.run(normal(generator, 200))
    assert kept() == before


def test_only_a_collapse_of_the_leader_is_warned_of(generator: torch.Generator) -> None:
    x, _ = stream(400, generator)
    same, apart = torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.2, 0.8], dtype=F64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        em = OnlineHypotheses([learner(same), learner(apart, 0.1)], check_every=100)
        em.run(x)
    assert not em.collapse().collapsed
    lost = OnlineHypotheses([learner(same), learner(same)], check_every=100)
    with pytest.warns(CollapseWarning, match="the best of 2 learners after 100 steps: the output"):
        lost.run(x[:100])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lost.run(x[100:])


def test_invalid_arguments_are_errors(generator: torch.Generator) -> None:
    one, two = normal(generator, 2), normal(generator, 3)
    with pytest.raises(ValueError, match="one OnlineEM or more, got none"):
        OnlineHypotheses([])
    with pytest.raises(TypeError, match=r"should be OnlineEM, got \['int'\]"):
        OnlineHypotheses([1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"same number of tasks, got \[2, 3\]"):
        OnlineHypotheses([learner(one), learner(two)])
    em = learner(one)
    with pytest.raises(ValueError, match="share weights"):
        OnlineHypotheses([em, em])
    with pytest.raises(ValueError, match="memory and check_every must be at least 1"):
        OnlineHypotheses([em], memory=0.5)
    with pytest.raises(ValueError, match="the stream has no step"):
        OnlineHypotheses([em]).run(torch.zeros(0))
    with pytest.raises(ValueError, match="no step was seen"):
        OnlineHypotheses([em]).collapse()
