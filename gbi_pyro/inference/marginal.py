"""The marginal likelihood of a marked model, tasks summed out, as a Pyro model of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from gbi_pyro.inference._hidden_task import FirstRun, HiddenTask, InPlates, TaskLikelihood
from gbi_pyro.inference.chain_posterior import ChainPosterior, Output, along_chain, check_output
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.inference.task_chain import TaskChain
from gbi_pyro.inference.task_prior import TaskPrior
from gbi_pyro.logjoint import LogJoint, Passes, runs_in_training
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model, Point, RelaxMessenger, points_at
from gbi_pyro.score import by_element
from gbi_pyro.sites import TaskSite, TaskSiteError, no_task_sites

Prior = TaskPrior | TaskChain | Callable[..., TaskPrior | TaskChain] | None
Lengths = Tensor | Callable[..., Tensor] | None


@dataclass
class Marginal:
    """What ``marginalize`` returns: a Pyro model without tasks; see there."""

    model: Model
    prior: Prior = None
    lengths: Lengths = None
    chunk_size: int | None = None
    check: bool = True

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run the model with its tasks summed out."""
        prior, found = self._run(args, kwargs)
        site, dims = found.site, dict.fromkeys(found.frames)
        if isinstance(prior, TaskChain):
            time = site.time_dim(prior.time)
            evidence = _chain_evidence(prior, found)
            dims.pop(site.dims[time], None)
        else:
            evidence = _element_evidence(prior, found)
        with InPlates([found.frames[name] for name in dims]):
            pyro.factor(f"{site.name}_log_evidence", evidence)

    def likelihood(self, *args: Any, **kwargs: Any) -> TaskLikelihood:
        """Return log p(x | z = k) of each element; the model's other sites appear as usual."""
        return self._run(args, kwargs)[1]

    def terms(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the log evidence of each sequence of a chain, else of each element, ``(n,)``.

        Of a single sequence that of each step, log p(x_t | x_1..t-1).
        """
        prior, found = self._run(args, kwargs)
        if isinstance(prior, TaskChain):
            time = found.site.time_dim(prior.time) - 1
            posterior = prior.posterior(found.log_likelihood.double().movedim(time, -2))
            several = posterior.log_evidence.numel() > 1
            return (posterior.log_evidence if several else posterior.step_log_evidence).flatten()
        return _element_evidence(prior, found).flatten()

    def infer(
        self, *args: Any, output: Output = "smoothed", **kwargs: Any
    ) -> TaskPosterior | ChainPosterior:
        """Return the exact posterior over the tasks at the present weights.

        Of a chain it also gives the other outputs, log p(x_t | x_1..t-1), the most probable path
        and joint draws; without one each element's posterior stands alone.

        Args:
            args: what the model takes.
            output: of a chain, see ``BayesFilter``.
            kwargs: what the model takes.

        Raises:
            TaskSiteError: for latent sites without a value, see ``condition``.
            ValueError: for another output than ``"smoothed"`` without a chain, and for data that no
                task can have made.
        """
        check_output(output)
        with pure(self.model) as in_training, torch.no_grad(), poutine.trace() as outside:
            prior, found = self._run(args, kwargs)
        if in_training:
            raise runs_in_training(in_training[0])
        rest = outside.trace.nodes.items()
        latents = [
            name
            for name, node in rest
            if node["type"] == "sample" and not (node["is_observed"] or site_is_subsample(node))
        ]
        if latents:
            raise TaskSiteError(
                f"the marginal has latent sites, {', '.join(map(repr, latents))}; expected a value "
                "for each, one draw or an estimate: marginal.condition(values).infer(...)"
            )
        elements = _elements(found, prior, float(outside.trace.log_prob_sum()))
        if isinstance(prior, TaskChain):
            return along_chain(elements, prior, found.log_likelihood.double(), output)
        if output != "smoothed":
            raise ValueError(
                f"output={output!r} is of a chain; this prior has none: leave output out, or give "
                "a TaskChain"
            )
        return elements

    def condition(self, values: Mapping[str, Tensor]) -> Marginal:
        """Return the marginal at values of its latent sites, draws or estimates.

        Args:
            values: by the name of their site; names of other sites have no effect.
        """
        prior = self.prior
        if callable(prior):
            prior = poutine.condition(prior, data=values)
        return replace(self, model=poutine.condition(self.model, data=values), prior=prior)

    def _run(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[TaskPrior | TaskChain | None, TaskLikelihood]:
        prior = self.prior
        if prior is not None and not isinstance(prior, (TaskPrior, TaskChain)):
            prior = prior(*args, **kwargs)
        found, values = self._likelihood(args, kwargs)
        if self.check and found.site.num_tasks > 1 and found.site.batch_shape.numel() > 1:
            self.check = False  # once: can tasks of elements be tried one by one?
            with torch.no_grad():
                tried = Enumeration()(poutine.condition(self.model, data=values), *args, **kwargs)
            found = found._replace(passes=found.passes._replace(check=sum(tried.passes)))
        K = found.site.num_tasks
        if prior is not None and prior.num_tasks != K:
            raise ValueError(
                f"prior has {prior.num_tasks} tasks, task site {found.site.name!r} has {K}; make "
                f"it for K = {K}"
            )
        real = self._real(prior, found.site, args, kwargs)
        if real is not None:
            found = found._replace(
                log_likelihood=torch.where(real, found.log_likelihood, 0.0),
                num_observations=found.num_observations * real.squeeze(-1),
            )
        return prior, found

    def _real(
        self,
        prior: TaskPrior | TaskChain | None,
        site: TaskSite,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Tensor | None:
        """Return which steps ``lengths`` leaves, ``batch_shape + (1,)``; None for all."""
        lengths = self.lengths(*args, **kwargs) if callable(self.lengths) else self.lengths
        if lengths is None:
            return None
        if not isinstance(prior, TaskChain):
            raise ValueError(
                "lengths are those of sequences, which belong to a chain, but the prior is none: "
                "give a TaskChain, or mask the data in the model, poutine.mask(mask=...)"
            )
        time = site.time_dim(prior.time)
        batch = list(site.batch_shape)
        T = batch.pop(time)
        if list(lengths.shape) != batch or bool(((lengths < 0) | (lengths > T)).any()):
            raise ValueError(
                f"lengths should be {tuple(batch)} numbers of steps from 0 to {T}, one for "
                f"each sequence of {site.name!r}; got shape {tuple(lengths.shape)}, "
                f"{lengths.min()} to {lengths.max()}"
            )
        steps = torch.arange(T).reshape(-1, *[1] * (-1 - time))
        return (steps < lengths.unsqueeze(time)).unsqueeze(-1)

    def first_run(self, *args: Any, **kwargs: Any) -> FirstRun:
        """Run the model once, at its first task, and return what other runs repeat."""
        prior, recorded = self.prior, dict[Any, Any]()
        if callable(prior):
            prior = prior(*args, **kwargs)
        run = HiddenTask(recorded, replays=False)
        site = self._once(run, lambda s: s.corner(0), args, kwargs)
        indices = {name: recorded[name] for name in run.subsamples}
        time = prior.time if isinstance(prior, TaskChain) else None
        real = self._real(prior, site, args, kwargs)
        return FirstRun(run.factors, site, run.frames, indices, time, real)

    def _likelihood(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[TaskLikelihood, dict[str, Tensor]]:
        recorded: dict[Any, Any] = {}
        first = HiddenTask(recorded, replays=False)
        site = self._once(first, lambda s: s.corner(0), args, kwargs)
        nesting = max(f.log_prob.ndim for f in first.factors.values())
        ones = (1,) * (nesting - len(site.batch_shape))
        rows = [by_element(first.factors, site, nesting)]
        rest = torch.arange(1, site.num_tasks)
        for tasks in rest.split(self.chunk_size or 1) if len(rest) else ():
            corners = site.corner(int(tasks[0]))
            if self.chunk_size is not None:
                corners = site.corner(tasks).reshape(len(tasks), *ones, *site.log_prior.shape)
            run = HiddenTask(recorded, replays=True)
            self._once(run, points_at({site.name: corners}), args, kwargs)
            rows.append(by_element(run.factors, site, nesting, len(tasks)))
        likelihood, prior = (torch.cat(parts).movedim(0, -1) for parts in zip(*rows, strict=True))
        latents = {n: v for n, v in recorded.items() if n in first.latents}
        seen = LogJoint(first.factors, {site.name: site}, {}).num_observations(site)
        passes = Passes(forward=site.num_tasks)
        return TaskLikelihood(likelihood, prior, site, first.frames, seen, passes), latents

    def _once(
        self, run: HiddenTask, point: Point, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> TaskSite:
        with run, RelaxMessenger(point, inferred=True, min_tasks=1) as relax:
            self.model(*args, **kwargs)
        if len(relax.sites) != 1:
            if not relax.sites:
                raise no_task_sites()
            raise TaskSiteError(
                f"the model has {len(relax.sites)} task sites, {list(relax.sites)}; expected one, "
                "which is summed out: make their combinations the tasks of one site"
            )
        site: TaskSite
        (site,) = relax.sites.values()
        return site


def marginalize(
    model: Model,
    prior: Prior = None,
    lengths: Lengths = None,
    *,
    chunk_size: int | None = None,
    check: bool = True,
) -> Marginal:
    r"""Sum the tasks of a marked model out exactly: its marginal, itself a Pyro model.

        log p(x, theta) = log p(theta) + sum_i log sum_z p(z) p(x_i | z, theta)

    It takes the same arguments. Every site stays but the task and the data in its plates, whose
    place is taken by the factor ``<task>_log_evidence``: one number for each sequence of a chain,
    else for each element. It is as good for SVI, ``MCMC(NUTS(marginal))`` or an optimiser as any
    model. The gradient is that of the exact sum, posterior counts, in closed form for a chain.

    Data are given before: ``marginalize(poutine.condition(model, data={...}))``.

    Args:
        model: a Pyro model with one task site.
        prior: takes the place of the model's own prior over tasks: a ``TaskPrior``; a ``TaskChain``
            along the plate of time; or a function of the model's arguments that returns one of
            them, with ``pyro.sample`` and ``pyro.param`` of its own. None keeps the model's own.
        lengths: how many steps of each sequence are real, ``batch_shape`` without time, or a
            function of the arguments; needless where the model masks the others itself.
        chunk_size: how many tasks are tried in one run, as a leading dimension; see
            ``Enumeration``.
        check: whether independence of the elements, given their tasks, is checked by samples, once.

    Raises:
        TaskSiteError: for several task sites or none, or elements that influence each other.
        ValueError: for a prior of another K.

    >>> import pyro.distributions as dist
    >>> pyro.clear_param_store()
    >>> def model(x):
    ...     means = pyro.param("means", torch.tensor([0.0, 2.0]))
    ...     with pyro.plate("time", len(x)):
    ...         z = pyro.sample("z", dist.OneHotCategorical(torch.ones(2)), infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ means, 1.0), obs=x)
    >>> marginal = marginalize(model, TaskChain.sticky(2, hazard=0.1))
    >>> trace = poutine.trace(marginal).get_trace(torch.tensor([0.1, -0.2, 1.9, 2.3]))
    >>> trace.observation_nodes
    ['z_log_evidence']
    >>> round(trace.log_prob_sum().item(), 2)
    -6.53
    """
    if not callable(model):
        raise TypeError(f"model should be a Pyro model, a callable; got a {type(model).__name__}")
    return Marginal(model, prior, lengths, chunk_size, check)


def _element_evidence(prior: TaskPrior | None, found: TaskLikelihood) -> Tensor:
    own = found.log_prior if prior is None else prior.log_probs.to(found.log_likelihood)
    return (found.log_likelihood + own).logsumexp(-1)


def _chain_evidence(chain: TaskChain, found: TaskLikelihood) -> Tensor:
    time = found.site.time_dim(chain.time)
    by_time = found.log_likelihood.double().movedim(time - 1, -2)
    return chain.log_evidence(by_time).unsqueeze(time)


def _elements(
    found: TaskLikelihood, prior: TaskPrior | TaskChain | None, log_outside: float
) -> TaskPosterior:
    """Return the posterior of each element on its own; a chain takes the model's prior for now."""
    site, likelihood = found.site.detached(), found.log_likelihood.double()
    if isinstance(prior, TaskPrior):
        site = replace(site, log_prior=prior.log_probs.expand(site.log_prior.shape))
        joint = likelihood + site.log_prior
    else:
        joint = likelihood + found.log_prior
    evidence = joint.logsumexp(-1)
    if not isinstance(prior, TaskChain) and bool(evidence.isneginf().any()):
        raise ValueError(
            f"no task of {site.name!r} can have made the data of element "
            f"{tuple(evidence.isneginf().nonzero()[0].tolist())}: expected a log likelihood above "
            "-inf under one task at least; look at the prior and the supports"
        )
    return TaskPosterior(
        {site.name: joint.log_softmax(-1)},
        {site.name: site},
        "marginal",
        passes=found.passes,
        num_observations={site.name: found.num_observations},
        log_evidence=evidence,
        log_outside=log_outside,
    )
