"""Choice of the number of tasks by held-out log evidence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from gbi_pyro.learning.collapse import CollapseWarning
from gbi_pyro.learning.em import GradientEM


class TaskChoice(NamedTuple):
    """The number of tasks chosen, and what it was chosen by.

    Attributes:
        num_tasks: K.
        scores: mean held-out log evidence of each candidate, in nats per element.
        standard_error: of the best candidate's mean.
    """

    num_tasks: int
    scores: dict[int, float]
    standard_error: float


def one_standard_error(log_evidence: Mapping[int, Tensor]) -> TaskChoice:
    """Choose the smallest K within one standard error of the best held-out log evidence.

    More tasks than there are lower the log evidence little, so the largest mean alone would choose
    too many by chance (Breiman et al. 1984, Classification and regression trees, sec. 3.4.3). A
    model of one task is one whose other tasks are forbidden,
    ``TaskChain.sticky(2, hazard).without([1])``.

    A single stream holds its own future out: take log p(x_t | x_1..t-1) as ``OnlineEM`` returns it,
    summed over blocks of steps, from when the networks have learned. Over the whole stream (the
    prequential code length) the number of tasks counts for less than which start was lucky.

    Args:
        log_evidence: for each candidate K the log evidence of held-out elements that are
            independent (sequences, trials, blocks of steps), ``(N,)``, the same for all.

    Returns:
        The choice.

    Raises:
        ValueError: for no candidate, fewer than two elements, different ones, or numbers that are
            not finite.

    >>> import torch
    >>> flat = torch.tensor([-10.0, -12.0, -11.0, -9.0])
    >>> one_standard_error({1: flat, 2: flat + 5, 3: flat + 5.1}).num_tasks
    2
    """
    _check(log_evidence)
    scores = {k: v.double().mean().item() for k, v in log_evidence.items()}
    best = log_evidence[max(scores, key=lambda k: scores[k])].double()
    error = (best.std() / len(best) ** 0.5).item()
    near = [k for k, score in scores.items() if score >= max(scores.values()) - error]
    return TaskChoice(min(near), scores, error)


class Trained(NamedTuple):
    """The training with as many tasks as were chosen.

    Attributes:
        em: the training.
        choice: K, and what it was chosen by.
    """

    em: GradientEM
    choice: TaskChoice


def choose_num_tasks(
    train: Callable[[int], GradientEM], candidates: Iterable[int], *held_out: Any
) -> Trained:
    """Train with each number of tasks, and keep the smallest that explains held-out data as well.

    Args:
        train: gives the finished training with K tasks, for instance
            ``lambda K: best_of(..., seeds, num_steps, x).best``.
        candidates: the numbers of tasks to try.
        held_out: other data than those of the training: what the model takes. Their elements are
            compared by log evidence, see ``one_standard_error``.

    Returns:
        The training and the choice. A collapse of that training is warned of; tasks that it does
        not use are forbidden by ``em.prune``.

    Raises:
        ValueError: as ``one_standard_error``, and for an E-step without log evidence.

    >>> import pyro, pyro.distributions as dist, torch
    >>> from torch import nn
    >>> from gbi_pyro import Enumeration
    >>> class Clusters(nn.Module):
    ...     def __init__(self, num_tasks):
    ...         super().__init__()
    ...         self.means = nn.Parameter(torch.linspace(0.3, 0.7, num_tasks))
    ...     def forward(self, x):
    ...         with pyro.plate("trial", len(x)):
    ...             prior = dist.OneHotCategorical(torch.ones(len(self.means)))
    ...             z = pyro.sample("z", prior, infer={"task": True})
    ...             pyro.sample("x", dist.Normal(z @ self.means, 0.1), obs=x)
    >>> x = torch.tensor([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    >>> def train(num_tasks):
    ...     model = Clusters(num_tasks)
    ...     em = GradientEM(model, Enumeration(), torch.optim.SGD(model.parameters(), lr=0.01))
    ...     for _ in range(100):
    ...         bound = em.step(x)
    ...     return em
    >>> choose_num_tasks(train, (2, 3), x + 0.01).choice.num_tasks
    2
    """
    with warnings.catch_warnings():  # with more tasks than there are some stay unused
        warnings.simplefilter("ignore", CollapseWarning)
        trained = {K: train(K) for K in candidates}
    log_evidence = {}
    for K, em in trained.items():
        posterior = em.infer(*held_out)
        if posterior.log_evidence is None:
            raise ValueError(
                f"the E-step of the training with {K} tasks should know the log evidence; "
                f"{posterior.method!r} does not: take Enumeration(), alone or in a BayesFilter"
            )
        log_evidence[K] = posterior.log_evidence.detach().flatten()
    choice = one_standard_error(log_evidence)
    em = trained[choice.num_tasks]
    report = em.collapse(*held_out)
    if report.collapsed:
        words = f"of {sorted(trained)} tasks {choice.num_tasks} were chosen: {report}"
        warnings.warn(words, CollapseWarning, stacklevel=2)
    return Trained(em, choice)


def _check(scores: Mapping[int, Tensor]) -> None:
    if not scores:
        raise ValueError("no candidate was given: expected scores of at least one number of tasks")
    shapes = {k: tuple(v.shape) for k, v in scores.items()}
    shape = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or len(shape) != 1 or shape[0] < 2:
        raise ValueError(
            f"candidates were scored on elements of shapes {shapes}; expected the same ones for "
            "all, (N,) with N >= 2"
        )
    bad = [k for k, v in scores.items() if not bool(v.isfinite().all())]
    if bad:
        raise ValueError(
            f"the scores of K = {bad} hold NaN or infinite numbers; expected finite ones: look for "
            "a training that diverged"
        )
