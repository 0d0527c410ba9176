"""The autoregressive recogniser: networks trained to give each task given those before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gbi_pyro.inference._conditionals import Parents
from gbi_pyro.inference._joint_training import JointTraining
from gbi_pyro.inference.joint_losses import ForwardKL, JointLoss
from gbi_pyro.inference.joint_recogniser import JointRecogniser
from gbi_pyro.inference.simulator import Simulator
from gbi_pyro.logjoint import LogJoint, RelaxedModel


@dataclass(frozen=True, eq=False)
class AutoregressiveRecogniser(JointTraining):
    r"""Learn to infer several task sites jointly, each given those before it.

        log q(z | x) = \sum_i log_softmax(a_i(features(x), z_1 .. z_{i-1}) + log pi_i)[z_i]

    with a_i a perceptron of two hidden layers and pi_i the prior of site i (with the other sites
    at maximum entropy, where it depends on them): networks say what data and earlier tasks add to
    it, so a forbidden task stays forbidden. It is trained by Adam on fresh draws from the model,
    the learning rate rising and falling over one cycle, gradients clipped to norm 1.

    Args:
        encoder: features of the data: called with what the model is called with, it returns
            ``batch_shape + (F,)``. A ``nn.Module`` (or a method of one) is copied and trained with
            the rest; any other function stays as it is. Sets of observations need one whose
            answer does not depend on their order.
        hidden: the width of the hidden layers.
        updates: how many batches it is trained on.
        batch_size: how many cases a batch has.
        learning_rate: the largest.
        chunk_size: how many combinations of tasks are scored in one run of the model, which has to
            broadcast over them; None scores one after the other.
        max_joint: the largest number of combinations that a posterior writes out as a table, of
            which marginals are sums; beyond it they are estimated from draws.
        num_draws: how many draws that are.
        seed: of those draws.
        loss: ``ForwardKL()``, ``ReverseKL()`` or ``TrajectoryBalance()``; any function of a
            ``TrainingBatch`` and a generator will do.

    Raises:
        TypeError: for an encoder or a loss that cannot be called, options that are no numbers.
        ValueError: for numbers that are not positive.

    >>> import pyro, pyro.distributions as dist
    >>> from gbi_pyro.problems import Drawn, Problem
    >>> def model(x):
    ...     with pyro.plate("case", len(x)):
    ...         task = dist.OneHotCategorical(torch.ones(2))
    ...         a, b = (pyro.sample(n, task, infer={"task": True})[..., 0] for n in "ab")
    ...         pyro.sample("x", dist.Normal(a + b, 0.3), obs=x)
    >>> def draw(n, generator):
    ...     a, b = torch.randint(2, (2, n), generator=generator)
    ...     x = 2 - a - b + 0.3 * torch.randn(n, generator=generator)
    ...     return Drawn((x,), {"a": a, "b": b})
    >>> learner = AutoregressiveRecogniser(lambda x: x.unsqueeze(-1), hidden=16, updates=200)
    >>> infer = learner.fit(Problem("sum", model, draw), torch.Generator().manual_seed(0))
    >>> q = infer(model, torch.tensor([1.0])).table()  # one of the two is on, either as likely
    >>> bool((q.flat.exp() - torch.tensor([0.0, 0.5, 0.5, 0.0])).abs().max() < 0.1)
    True
    """

    loss: JointLoss = ForwardKL()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.loss):
            raise TypeError(f"loss should be callable, got a {type(self.loss).__name__}")

    def fit(self, problem: Simulator, generator: torch.Generator) -> JointRecogniser:
        """Train on draws from a problem; nothing of the problem or of this object changes.

        Args:
            problem: the model, and draws from it.
            generator: a seeded generator, for draws and for first weights.

        Returns:
            The inference, called as ``infer(model, *args)``.

        Raises:
            TaskSiteError: for task sites in different plates.
            ValueError: for what the encoder returns, if it does not fit; for draws that the model
                cannot have made.
        """

        def plan(run: RelaxedModel, at: LogJoint) -> tuple[Parents, JointLoss]:
            names = list(at.sites)
            return {name: tuple(names[:i]) for i, name in enumerate(names)}, self.loss

        return self._fit(problem, generator, plan, "autoregressive recogniser")
