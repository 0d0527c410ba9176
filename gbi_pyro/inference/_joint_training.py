"""Training of a joint recogniser on simulations, whatever its conditionals and its loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gbi_pyro.inference._amortised import Network
from gbi_pyro.inference._combinations import Scorer, check_same_elements
from gbi_pyro.inference._conditionals import Parents, SiteNetworks
from gbi_pyro.inference._options import check_numbers
from gbi_pyro.inference.joint_losses import JointLoss, TrainingBatch
from gbi_pyro.inference.joint_recogniser import JointRecogniser, as_features, recognised
from gbi_pyro.inference.simulator import Simulator, check_drawn
from gbi_pyro.logjoint import LogJoint, Passes, RelaxedModel
from gbi_pyro.posterior import detached
from gbi_pyro.purity import module_of

Plan = Callable[[RelaxedModel, LogJoint], tuple[Parents, JointLoss]]


@dataclass(frozen=True, eq=False)
class JointTraining:
    """How the networks of a joint recogniser are trained.

    By Adam on fresh draws, the learning rate rising and falling over one cycle, gradients clipped
    to norm 1.

    Attributes:
        encoder, hidden, updates, batch_size, learning_rate, chunk_size, max_joint, num_draws,
            seed: see ``AutoregressiveRecogniser``.
    """

    encoder: Network
    hidden: int = 96
    updates: int = 1000
    batch_size: int = 128
    learning_rate: float = 3e-3
    chunk_size: int | None = 64
    max_joint: int = 4096
    num_draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not callable(self.encoder):
            raise TypeError(f"encoder should be callable, got a {type(self.encoder).__name__}")
        whole = ["hidden", "updates", "batch_size", "max_joint", "num_draws"]
        whole += [] if self.chunk_size is None else ["chunk_size"]
        check_numbers(self, "learning_rate", integers=(*whole, "seed"))
        for name in (*whole, "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def _fit(
        self, problem: Simulator, generator: torch.Generator, plan: Plan, method: str
    ) -> JointRecogniser:
        """Train on draws from a problem.

        Args:
            problem: the model, and draws from it.
            generator: a seeded generator.
            plan: called with a run of the model; returns the parents of each site, in the order in
                which sites are drawn, and the loss.
            method: the inference in words.
        """
        seed = int(torch.randint(2**31, (), generator=generator))
        # Weights and layers such as dropout take no generator.
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(seed)
            return self._trained(problem, generator, plan, method)

    def _trained(
        self, problem: Simulator, generator: torch.Generator, plan: Plan, method: str
    ) -> JointRecogniser:
        encoder = copy.deepcopy(self.encoder)
        module = module_of(encoder)
        modules = [] if module is None else [module.train()]
        args, tasks = problem.draw(self.batch_size, generator)
        run, at = _run(problem, args)
        check_drawn(tasks, at.sites)
        sizes = {name: site.num_tasks for name, site in at.sites.items()}
        shape = check_same_elements(at.sites, "a joint recogniser")
        parents, loss_of = plan(run, at)
        features = as_features(encoder(*args), shape)
        networks = SiteNetworks(features.shape[-1], sizes, parents, self.hidden).to(features)
        modules.append(networks)
        weights: list[Tensor] = [p for m in modules for p in m.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(weights)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=self.updates
        )
        passes, losses = run.passes, []
        for update in range(self.updates):
            args, tasks = problem.draw(self.batch_size, generator)
            run, at = _run(problem, args)
            joint = recognised(networks, encoder(*args), at, detached(at.sites))
            score = Scorer(run, at, chunk_size=self.chunk_size, check=update == 0)
            loss = loss_of(TrainingBatch(joint, score, tasks), generator)
            _descend(loss, weights, optimiser)
            if update + 1 < self.updates:
                schedule.step()
            losses.append(loss.detach())
            passes = Passes(*(a + b for a, b in zip(passes, run.passes, strict=True)))
        for trained in modules:
            trained.eval().requires_grad_(False)
        return JointRecogniser(
            encoder,
            networks,
            method,
            torch.stack(losses),
            passes,
            self.max_joint,
            self.num_draws,
            self.seed,
        )


def _run(problem: Simulator, args: tuple[object, ...]) -> tuple[RelaxedModel, LogJoint]:
    run = RelaxedModel(problem.model, args)
    at = run.log_joint(lambda site: site.uniform())
    run.count(check=1)
    return run, at


def _descend(loss: Tensor, weights: list[Tensor], optimiser: torch.optim.Optimizer) -> None:
    # By autograd.grad: .backward() would move the gradient of weights that are not trained here.
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()
