"""Learning without task labels: latent updates and weight updates in turn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from gbi_pyro.inference._counts import Counts
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.inference.task_prior import TaskPrior
from gbi_pyro.learning._e_step import EStep, explain
from gbi_pyro.learning.collapse import CollapseReport, CollapseWarning, find_collapse
from gbi_pyro.learning.convergence import ConvergenceWarning, EMFit, has_settled
from gbi_pyro.learning.data_parallel import check_single_process
from gbi_pyro.learning.em_step import EMStep, backtrack, first_order_gain
from gbi_pyro.learning.m_step import TaskTable, mixture_log_joint, task_table
from gbi_pyro.learning.weights import check_gradients
from gbi_pyro.logjoint import Passes
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSiteError
from gbi_pyro.tracker import UNTRACKED, Tracker

MStep = Literal["expected", "relaxed", "hard"]
Infer = Callable[..., TaskPosterior]


class GradientEM:
    r"""Train a model whose tasks are not known: expectation maximisation with any inference.

    ::

        E-step   q(z) from any inference of the library, weights frozen
        M-step   one step of the optimiser up  E_q log p_theta(x, z)

    With the exact posterior each M-step raises a bound that touches the log evidence (Dempster,
    Laird and Rubin 1977; Neal and Hinton 1998), so small steps raise the log evidence itself. With
    gradient-based posteriors that is not promised; every step is on record in ``history``.

    It trains in a single process: posteriors, prior and history are those of its own batch.

    Tasks that were found come in any order, and fewer than K may be found: see ``collapse``, which
    is looked for every ``check_every`` steps and warned of once. A few labels, clamped from a
    random start, pull towards a permuted optimum: find the tasks first, then ``match_labels``.

    Args:
        model: a Pyro model with one task site.
        e_step: ``Enumeration()``, ``OneStepGradient(order=2)``, ``BayesFilter(...)``, or any
            ``infer(model, *args) -> TaskPosterior``.
        optim: an optimiser of torch, over the weights.
        m_step: ``"expected"``, every task weighted by q, K forward passes or fewer by
            ``chunk_size``; ``"relaxed"``, the mixture q into the network, one pass; ``"hard"``, the
            most probable task, one pass. A recurrent network takes the last two through time, and
            ``"expected"`` with ``cut``.
        prior: a ``TaskPrior`` or ``TaskChain`` that takes the place of the model's own prior over
            tasks, and is learned in closed form where it asks for it. With a chain, time is the
            last batch dimension of the task site, and the E-step smooths.
        cut: for recurrent networks, ``stepwise``: inference runs on ``cut(model, *args)``, so that
            each step has its own likelihood.
        monotone: halve a step until the objective does not fall; full batch only. The E-step has to
            know the log evidence.
        chunk_size: how many tasks the expected M-step folds into one pass, as a leading dimension
            that the model has to broadcast over; None tries them one after the other.
        prior_rate: 1 for the full batch; with mini-batches the prior learns from a running sum of
            counts that remembers 1 / prior_rate batches.
        check_every: after how many steps collapse is looked for.

    Raises:
        TypeError: for arguments that are not what they should be.
        ValueError: for options that do not fit together.
        TaskSiteError: for a model with several task sites, or elements that influence each other in
            an expected M-step.

    >>> import pyro, pyro.distributions as dist
    >>> from torch import nn
    >>> class Clusters(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.means = nn.Parameter(torch.tensor([0.4, 0.6]))
    ...     def forward(self, x):
    ...         with pyro.plate("trial", len(x)):
    ...             prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...             z = pyro.sample("z", prior, infer={"task": True})
    ...             pyro.sample("x", dist.Normal(z @ self.means, 0.1), obs=x)
    >>> model, x = Clusters(), torch.tensor([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    >>> em = GradientEM(model, Enumeration(), torch.optim.SGD(model.parameters(), lr=0.01))
    >>> em.fit(x).converged
    True
    >>> model.means.data
    tensor([0.2000, 0.8000])
    """

    def __init__(
        self,
        model: Model,
        e_step: Infer,
        optim: torch.optim.Optimizer,
        m_step: MStep = "expected",
        *,
        prior: TaskPrior | TaskChain | None = None,
        cut: Callable[..., Model] | None = None,
        monotone: bool = False,
        chunk_size: int | None = None,
        prior_rate: float = 1.0,
        check_every: int = 50,
    ) -> None:
        if not (callable(model) and callable(e_step) and isinstance(optim, torch.optim.Optimizer)):
            raise TypeError(
                "GradientEM takes a model, an inference and an optimiser of torch.optim, got "
                f"{type(model).__name__}, {type(e_step).__name__} and {type(optim).__name__}"
            )
        check_single_process(model, "GradientEM")
        if prior is not None and not isinstance(prior, (TaskPrior, TaskChain)):
            raise TypeError(
                f"prior should be a TaskPrior or a TaskChain, got {type(prior).__name__}"
            )
        if m_step not in ("expected", "relaxed", "hard"):
            raise ValueError(f"m_step must be 'expected', 'relaxed' or 'hard', got {m_step!r}")
        if chunk_size is not None and (chunk_size < 1 or m_step != "expected"):
            raise ValueError(
                f"chunk_size must be at least 1, and belongs to m_step='expected'; got {chunk_size}"
                f" with m_step={m_step!r}"
            )
        if not 0 < prior_rate <= 1 or (prior_rate < 1 and (prior is None or monotone)):
            raise ValueError(
                f"prior_rate must lie in (0, 1], and below 1 needs a prior to learn from "
                f"mini-batches, so no monotone=True; got {prior_rate}"
            )
        if check_every < 1:
            raise ValueError(f"check_every must be at least 1, got {check_every}")
        self.model, self.e_step, self.optim, self.m_step = model, e_step, optim, m_step
        self.prior, self.cut, self.monotone = prior, cut, monotone
        self.chunk_size, self.prior_rate, self.check_every = chunk_size, prior_rate, check_every
        self.history: list[EMStep] = []
        # What a learned prior gave up is a collapse; what was forbidden from the start is not.
        self._allowed = None if prior is None else prior.allowed
        self._counts: Counts | None = None
        self._warned = False

    def step(self, *args: Any, labels: Tensor | None = None) -> float:
        """Run one E-step and one M-step on a batch.

        Args:
            args: what the model takes.
            labels: task ids where they are known, -1 where not, broadcast to the shape of the task
                site; q is one-hot there.

        Returns:
            The objective before the update, in nats per observed value: the log evidence of data
            and labels, or its bound where the E-step does not know it. Parts are in ``history``.

        Raises:
            ValueError: for labels that do not fit.
            TaskSiteError: see the class; gradients that are not finite, before the weights move.
        """
        e = self._infer(args, labels)
        if self.monotone and e.log_evidence is None:
            raise ValueError(
                "monotone=True compares log evidences, which this E-step does not know: expected "
                f"an exact one such as Enumeration(), got {e.posterior.method!r}"
            )
        if self.m_step == "expected" and not self.history and not _checks(self.e_step):
            Enumeration()(*self._view(args))  # once: can tasks of elements be tried one by one?
        log_joint, n, table = self._log_joint(args, e)
        if not n:
            raise ValueError(
                "all data of this batch are masked; expected at least one observed value to learn "
                "from: leave the batch out"
            )
        self.optim.zero_grad()
        (-log_joint / n).backward()
        self._check_gradients()
        record = self._record(e, log_joint, n, table)
        self.history.append(self._move(e, args, labels, record))
        if len(self.history) % self.check_every == 0:
            self._warn(self._report(args, e, table))
        return record.objective / n

    def fit(
        self,
        *args: Any,
        labels: Tensor | None = None,
        max_steps: int = 1000,
        tolerance: float = 1e-6,
        window: int = 10,
        tracker: Tracker = UNTRACKED,
    ) -> EMFit:
        """Run steps on one batch until the objective settles.

        It has settled when ``window`` steps move it, per observed value, by no more than
        ``tolerance`` (relative to its size where that is above 1 nat). A slow optimiser settles
        early: each step has to be worth more than ``tolerance`` / ``window``. With ``monotone`` it
        also stops when two steps in a row are refused whole, and has converged if they promised no
        more than ``tolerance``; else the optimiser's rate is too large.

        Args:
            args: what the model takes.
            labels: see ``step``.
            max_steps: after which it gives up, with a ``ConvergenceWarning``.
            tolerance: of the objective, in nats per observed value.
            window: over how many steps it is compared.
            tracker: takes the objective of each step, ``"objective"``, in nats per observed value.

        Returns:
            Whether it converged, why it stopped, the steps taken and the objective reached.

        Raises:
            ValueError: for a limit, a tolerance or a window that is not positive; and see ``step``.
        """
        if min(max_steps, window) < 1 or not tolerance > 0:
            raise ValueError(
                "expected max_steps >= 1, window >= 1 and tolerance > 0, got "
                f"{max_steps}, {window} and {tolerance}"
            )
        objectives: list[float] = []
        converged, reason = False, f"max_steps = {max_steps} reached"
        for _ in range(max_steps):
            objectives.append(self.step(*args, labels=labels))
            tracker.metric("objective", objectives[-1], len(self.history))
            last = self.history[-2:]
            if len(objectives) > 1 and not any(step.accepted for step in last):
                promised = last[-1].promised / last[-1].num_observations
                converged = promised <= tolerance * max(1.0, abs(objectives[-1]))
                reason = (
                    f"no step of the optimiser raises the objective; it promised {promised:.2g}"
                )
                break
            if has_settled(objectives, window, tolerance):
                converged, reason = True, f"{window} steps moved the objective by <= {tolerance:g}"
                break
        if not converged:
            moved = objectives[-1] - objectives[-1 - min(window, len(objectives) - 1)]
            warnings.warn(
                f"EM stopped after {len(objectives)} steps before it converged: {reason}. The last "
                f"{window} steps moved the objective by {moved:.3g} nats per observed value, and "
                f"{tolerance:g} counts as settled: raise max_steps, or take another rate",
                ConvergenceWarning,
                stacklevel=2,
            )
        return EMFit(converged, reason, len(objectives), objectives[-1])

    def _check_gradients(self) -> None:
        weights = [p for group in self.optim.param_groups for p in group["params"]]
        try:
            check_gradients(self.model, weights, [p.grad for p in weights])
        except TaskSiteError:
            self.optim.zero_grad()
            raise

    def infer(self, *args: Any, labels: Tensor | None = None) -> TaskPosterior:
        """Return the posterior of the E-step, under the prior as learned so far.

        With a chain a ``ChainPosterior``: filtered, most probable path and path draws too.
        """
        return self._infer(args, labels).posterior

    def collapse(self, *args: Any) -> CollapseReport:
        """Report which tasks the network uses and distinguishes on these data."""
        return self._report(args, self._infer(args, None), None)

    def _warn(self, report: CollapseReport) -> None:
        if report.collapsed and not self._warned:
            self._warned = True
            words = f"after {len(self.history)} EM steps: {report}"
            warnings.warn(words, CollapseWarning, stacklevel=3)

    def prune(self, *args: Any) -> CollapseReport:
        """Forbid the tasks that are not used or equal another one, in EM's own prior.

        They keep their numbers, and the network its shape.

        Raises:
            ValueError: without a prior, which alone can forbid a task.
        """
        if self.prior is None:
            raise ValueError(
                "without a prior of EM's own no task can be pruned: give prior=TaskPrior.uniform(K)"
                " or TaskChain.sticky(K, hazard)"
            )
        report = self.collapse(*args)
        if report.redundant:
            self.prior, self._counts = self.prior.without(report.redundant), None
            self._allowed = self.prior.allowed
        return report

    def _view(self, args: tuple[Any, ...], **tasks: Tensor) -> tuple[Any, ...]:
        """Return the model to infer from, with its arguments."""
        if self.cut is None:
            return (self.model, *args)
        return (self.cut(self.model, *args, **({"tasks": tasks} if tasks else {})),)

    def _infer(self, args: tuple[Any, ...], labels: Tensor | None) -> EStep:
        return explain(self.e_step(*self._view(args)), self.prior, labels)

    def _log_joint(self, args: tuple[Any, ...], e: EStep) -> tuple[Tensor, float, TaskTable | None]:
        """Return what the weights ascend, how many values it explains, and the tasks' table."""
        q, own = e.posterior.probs(), self.prior is None
        if self.m_step == "expected":
            view = self._view(args, **{e.posterior.site_name(): q})
            table = task_table(view[0], view[1:], self.chunk_size)
            return table.expected(q, prior=own), table.num_observations, table
        q = _one_hot(q) if self.m_step == "hard" else q
        return *mixture_log_joint(self.model, args, q, prior=own), None

    def _record(self, e: EStep, log_joint: Tensor, n: float, table: TaskTable | None) -> EMStep:
        tasks = 0.0 if self.prior is None else self.prior.expected(self._counts_of(e)).item()
        passes = e.posterior.passes
        return EMStep(
            log_evidence=e.log_evidence,
            expected_log_joint=log_joint.item() + tasks,
            entropy=0.0 if self.m_step == "hard" else e.entropy.item(),
            log_density=self._log_density,
            num_observations=n,
            accepted=1.0,
            promised=0.0,
            passes=passes._replace(
                forward=passes.forward + (table.forward if table else 1),
                backward=passes.backward + 1,
            ),
        )

    @property
    def _log_density(self) -> float:
        return 0.0 if self.prior is None else self.prior.log_density

    def _counts_of(self, e: EStep) -> Counts:
        assert self.prior is not None
        assert e.counts is not None
        if self.m_step != "hard":
            return e.counts
        q, padding = _one_hot(e.posterior.probs()), e.padding
        if isinstance(self.prior, TaskChain):
            (site,) = e.posterior.sites.values()
            time = site.time_dim(self.prior.time)
            q, padding = q.movedim(time - 1, -2), padding.movedim(time, -1)
        return self.prior.counts(q, padding)

    def _move(
        self, e: EStep, args: tuple[Any, ...], labels: Tensor | None, record: EMStep
    ) -> EMStep:
        """Move the weights and the prior; halve the weights' step while the objective falls."""
        weights = [p for group in self.optim.param_groups for p in group["params"]]
        start = [p.detach().clone() for p in weights]
        prior, kept = self.prior, self._counts
        if self.prior is not None:
            counts = self._counts_of(e)
            if self._counts is not None:
                counts = self._counts.discounted(self.prior_rate, counts)
            self.prior, self._counts = self.prior.updated(counts), counts
        self.optim.step()
        record = replace(
            record, promised=first_order_gain(weights, start) * record.num_observations
        )
        if not self.monotone:
            return record
        passes, expected = record.passes, record.objective

        def falls() -> bool:
            nonlocal passes
            after = self._infer(args, labels)
            passes = Passes(*map(sum, zip(passes, after.posterior.passes, strict=True)))
            assert after.log_evidence is not None
            return not after.log_evidence + self._log_density >= expected  # true of a NaN

        taken = backtrack(weights, start, falls)
        if not taken:  # the direction is no ascent: stay, and drop the momentum that chose it
            self.optim.state.clear()
            if falls():  # what the prior alone has learned may be kept
                self.prior, self._counts = prior, kept
        return replace(record, accepted=taken, passes=passes)

    @torch.no_grad()
    def _report(self, args: tuple[Any, ...], e: EStep, table: TaskTable | None) -> CollapseReport:
        posterior = e.posterior
        if table is None:
            view = self._view(args, **{posterior.site_name(): posterior.probs()})
            table = task_table(view[0], view[1:], self.chunk_size)
        values = [
            table.likelihood.detach().movedim(0, -1),
            posterior.probs(),
            e.padding.unsqueeze(-1),
        ]
        stay = None
        if isinstance(self.prior, TaskChain):
            stay = self.prior.log_transition.diagonal().exp()
            (site,) = posterior.sites.values()
            time = site.time_dim(self.prior.time) - 1
            values = [value.movedim(time, -2) for value in values]
        log_likelihood, q, padding = values
        return find_collapse(
            log_likelihood,
            q,
            self._allowed,
            padding=padding.squeeze(-1),
            carries_history=hasattr(self.model, "carried_states"),
            stay=stay,
        )


def _checks(infer: Infer) -> bool:
    return isinstance(infer, Enumeration) and infer.check


def _one_hot(q: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)
