"""Iterative amortised inference: a network that learns how to step towards the posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from gbi_pyro._arrays import UNKNOWN, check_labels
from gbi_pyro.inference._combinations import check_same_elements
from gbi_pyro.inference._options import check_numbers
from gbi_pyro.inference._refinement import Arguments, refine_steps
from gbi_pyro.inference.refiner_network import RefinerNetwork
from gbi_pyro.inference.simulator import Drawn, Simulator, check_drawn
from gbi_pyro.logjoint import Passes, RelaxedModel
from gbi_pyro.posterior import TaskPosterior, detached
from gbi_pyro.relax import Model


@dataclass(frozen=True, eq=False)
class LearnedRefiner:
    r"""Infer the task by a few steps whose size and direction a network has learned.

        log q_t = log_softmax((1 - r_t) log q_{t-1} + r_t (g(q_{t-1}) + log pi) + MLP)

    from maximum entropy, with g the gradient of the log likelihood at q_{t-1}; see
    ``RefinerNetwork`` for what the MLP reads (Marino, Yue and Mandt 2018, Iterative amortized
    inference, ICML). It is trained on draws of the model with their true tasks: the loss is the
    mean of -log q_t(true task), with the weight t / 2T before the last step, and 1 there. Several
    sites, in the same plates, get a product of marginals.

    With ``split`` the data come in pieces, observations in time of a task that stays the same. The
    log q of one piece is the prior of the next, and each piece is one refinement of it (Marino,
    Cvitkovic and Yue 2018, A general method for amortizing variational filtering, NeurIPS).

    Args:
        steps: T, the steps for each piece of the data: a forward and a backward pass each.
        hidden: width of the network.
        updates: Adam's updates in training, each on fresh draws, with the one-cycle schedule.
        batch: how many cases each of them draws.
        rate: the largest learning rate.
        use_gradient: whether the gradient is used at all. Without it the refiner is the control:
            a recogniser of the features that never runs the likelihood.
        features: called with what the model is called with, returns features of the data for the
            network, ``batch_shape + (F,)``.
        split: called with what the model is called with, returns a sequence of such arguments, the
            pieces in the order of time; they are called with the same ``kwargs``.
        network: the trained network, which ``fit`` supplies. Weights that were saved are put back
            by ``replace(refiner, network=network)``.

    Calling a fitted refiner as ``refiner(model, *args)`` returns a ``TaskPosterior``, with the
    points after 0, 1, ... steps in ``path``. Where all data are masked it is the prior.

    Raises:
        TaskSiteError: for sites in different plates, or others than it was fitted to; and see
            ``RelaxedModel``.
        ValueError: for options out of range; when called before it is fitted; for what ``features``
            and ``split`` return, if it does not fit.
        TypeError: for an option of another type.

    >>> import pyro, pyro.distributions as dist
    >>> from gbi_pyro.problems import Problem
    >>> means = torch.tensor([0.0, 0.5, 1.0])
    >>> def model(x):
    ...     with pyro.plate("case", len(x)):
    ...         z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3)), infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ means, 0.3), obs=x)
    >>> def draw(n, generator):
    ...     z = torch.randint(3, (n,), generator=generator)
    ...     return Drawn((means[z] + 0.3 * torch.randn(n, generator=generator),), {"z": z})
    >>> unfitted = LearnedRefiner(steps=2, updates=20)
    >>> refiner = unfitted.fit(Problem("line", model, draw), torch.Generator().manual_seed(0))
    >>> posterior = refiner(model, torch.zeros(4))
    >>> posterior.passes, posterior.path["z"].shape
    (Passes(forward=2, backward=2, check=0), torch.Size([3, 4, 3]))
    """

    steps: int = 5
    hidden: int = 96
    updates: int = 300
    batch: int = 128
    rate: float = 3e-3
    use_gradient: bool = True
    features: Callable[..., Tensor] | None = None
    split: Callable[..., Sequence[Arguments]] | None = None
    network: RefinerNetwork | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_numbers(self, "rate", integers=("steps", "hidden", "updates", "batch"))
        for name, least in (("steps", 1), ("hidden", 1), ("updates", 0), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        for name in ("features", "split"):
            if not (getattr(self, name) is None or callable(getattr(self, name))):
                raise TypeError(
                    f"{name} of LearnedRefiner should be a function of what the model takes, got a "
                    f"{type(getattr(self, name)).__name__}"
                )
        if not (self.use_gradient or self.features):
            raise ValueError(
                "use_gradient=False leaves the network nothing of the data: give features as well"
            )
        if (net := self.network) is not None:
            found = {
                "steps": net.steps,
                "use_gradient": net.use_gradient,
                "features": net.num_features > 0,
            }
            wanted = {
                "steps": self.steps,
                "use_gradient": self.use_gradient,
                "features": self.features is not None,
            }
            if found != wanted:
                raise ValueError(
                    f"network should be built for the options of the refiner, {wanted}; got one "
                    f"for {found}"
                )

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskPosterior:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        return self._posterior(model, args, kwargs)

    def refine(
        self, posterior: TaskPosterior, model: Model, *args: Any, **kwargs: Any
    ) -> TaskPosterior:
        """Go on from a posterior with new data: it is their prior, and where the steps start.

        Tasks have to stay the same, and data be independent given them. Calling a refiner with
        ``split`` is the same as refining piece by piece. Untrained, it is exact where the log
        likelihood is affine in the task; elsewhere the gradient at the carried point has errors
        that the network has to learn, and one that was fitted without ``split`` has seen no other
        start than maximum entropy.

        Args:
            posterior: of the same tasks given the data before, by any inference.
            model, args, kwargs: as for a call, with the new data.

        Returns:
            The posterior given both; its ``passes`` and ``path`` are those of the new data.

        Raises:
            TaskSiteError: for a posterior over other tasks or elements.
        """
        return self._posterior(model, args, kwargs, posterior)

    def fit(self, problem: Simulator, generator: torch.Generator) -> Self:
        """Return the refiner with a network trained on draws of a problem.

        Args:
            problem: a model and draws from it.
            generator: for the draws and the first weights.

        Raises:
            ValueError: if the loss is not finite: the prior forbids a drawn task, for instance.
        """
        drawn = problem.draw(self.batch, generator)
        network = self._network_for(problem.model, drawn.args, generator)
        if not self.updates:
            return replace(self, network=network.requires_grad_(False).eval())
        adam = torch.optim.Adam(network.parameters(), lr=self.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(adam, self.rate, total_steps=self.updates)
        for update in range(self.updates):
            if update:
                drawn = problem.draw(self.batch, generator)
            with torch.enable_grad():
                loss = self._loss(network, problem.model, drawn)
                adam.zero_grad()
                loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            adam.step()
            schedule.step()
        return replace(self, network=network.requires_grad_(False).eval())

    def _network_for(
        self, model: Model, args: Arguments, generator: torch.Generator
    ) -> RefinerNetwork:
        piece = self._pieces(args, {})[0]
        joint = RelaxedModel(model, piece).log_joint(lambda site: site.uniform())
        check_same_elements(joint.sites, "LearnedRefiner")
        found = None if self.features is None else self.features(*piece)
        network = RefinerNetwork(
            {n: s.num_tasks for n, s in joint.sites.items()},
            self.steps,
            self.hidden,
            0 if found is None else found.shape[-1],
            self.use_gradient,
            generator,
        )
        return network.to(next(iter(joint.sites.values())).log_prior)

    def _pieces(self, args: Arguments, kwargs: Mapping[str, Any]) -> Sequence[Arguments]:
        if self.split is None:
            return [args]
        pieces = list(self.split(*args, **kwargs))
        if not pieces or not all(isinstance(piece, tuple) for piece in pieces):
            kinds = sorted({type(piece).__name__ for piece in pieces})
            raise ValueError(
                "split should return a sequence of tuples, the arguments of the model for each "
                f"piece of the data; got {'one of ' + ', '.join(kinds) if kinds else 'none'}"
            )
        return pieces

    def _loss(self, network: RefinerNetwork, model: Model, drawn: Drawn) -> Tensor:
        pieces, terms = self._pieces(drawn.args, {}), []
        for state in refine_steps(network, self.features, model, pieces):
            weight = 1.0 if state.step == self.steps else state.step / (2 * self.steps)
            check_drawn(drawn.tasks, state.log_q)
            for name, log_q in state.log_q.items():
                labels = check_labels(drawn.tasks[name], log_q.shape[:-1], log_q.shape[-1])
                labels = labels.to(log_q.device).flatten()
                rows = log_q.reshape(-1, log_q.shape[-1])
                terms.append(weight * nll_loss(rows, labels, ignore_index=UNKNOWN))
        loss = torch.stack(terms).sum() / len(pieces)
        if not bool(loss.detach().isfinite()):
            raise ValueError(
                f"the loss should be finite; got {loss.item()}: the prior forbids a task that was "
                f"drawn, or training diverges: correct the draws, or lower rate = {self.rate}"
            )
        return loss

    def _posterior(
        self,
        model: Model,
        args: Arguments,
        kwargs: Mapping[str, Any],
        before: TaskPosterior | None = None,
    ) -> TaskPosterior:
        if self.network is None:
            raise ValueError(
                "this LearnedRefiner has no network yet; expected a fitted one: "
                "refiner = LearnedRefiner(...).fit(problem, generator)"
            )
        carried = None if before is None else before.in_model_order().log_probs
        pieces = self._pieces(args, kwargs)
        with torch.no_grad():
            states = list(refine_steps(self.network, self.features, model, pieces, kwargs, carried))
        last = states[-1]
        ends = [s for s in states if s.step == self.steps]
        counts = {
            n: torch.stack([e.joint.num_observations(e.joint.sites[n]) for e in ends]).sum(0)
            for n in last.log_q
        }
        if before is not None:
            counts = {n: c + before.num_observations.get(n, 0) for n, c in counts.items()}
        points = {n: [states[0].before[n], *(s.log_q[n] for s in states)] for n in last.log_q}
        return TaskPosterior(
            last.log_q,
            detached(last.joint.sites),
            method=f"learned refiner, {self.steps} steps"
            + " a piece" * (self.split is not None)
            + ", without gradient" * (not self.use_gradient),
            settings={"steps": self.steps, "use_gradient": self.use_gradient},
            passes=Passes(*(sum(used) for used in zip(*(e.passes for e in ends), strict=True))),
            num_observations=counts,
            path={n: torch.stack(p).exp() for n, p in points.items()},
        )
