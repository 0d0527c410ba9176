"""Tasks of a model whose other sites are known by draws, from MCMC or SVI."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from gbi_pyro.export._handlers import AtDraws, DrawnModel, Draws, log_mean_exp, look
from gbi_pyro.inference.enumeration import Enumeration
from gbi_pyro.joint import Joint, draw_tasks
from gbi_pyro.logjoint import Passes
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSite, TaskSiteError


class TaskDraws(NamedTuple):
    """The exact posterior over tasks for each draw of the other sites; C chains of S draws.

    Attributes:
        values: the draws themselves, ``(C, S) + shape`` by site.
        log_probs: log p(z | x, draw), ``(C, S) + batch_shape + (K,)`` by task site.
        log_likelihood: the marginal log p(x_i | draw), tasks summed out, ``(C, S)`` + the shape of
            the elements of the outermost task site.
        sites: the task sites, as the first draw leaves them.
        passes: the compute used.
        settings: how the draws were gone through.
        joints: the joint posteriors of several task sites, for one draw or a chunk of them each.
    """

    values: dict[str, Tensor]
    log_probs: dict[str, Tensor]
    log_likelihood: Tensor
    sites: dict[str, TaskSite]
    passes: Passes
    settings: dict[str, Any]
    joints: tuple[Joint, ...] = ()

    def sample(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the tasks of all sites together, once for each draw: ``(C, S) + batch_shape``."""
        if not self.joints:
            return {n: draw_tasks(q, generator) for n, q in self.log_probs.items()}
        drawn = [joint.sample(1, generator) for joint in self.joints]
        return {
            name: torch.cat([d[name].reshape(-1, *q.shape[2:-1]) for d in drawn]).reshape(
                q.shape[:-1]
            )
            for name, q in self.log_probs.items()
        }

    @property
    def log_predictive_density(self) -> Tensor:
        """Log mean_s p(x_i | draw s) of each element, for held-out data.

        Of data that the draws were made from it is too large: take ``arviz.loo`` there.
        """
        return log_mean_exp(self.log_likelihood)

    def average(self) -> TaskPosterior:
        """Return p(z | x) = mean_s p(z | x, draw s), which is meaningful if tasks keep their ids.

        Chains that number their tasks differently average to nothing: order or anchor the tasks.
        """
        return TaskPosterior(
            {name: log_mean_exp(value) for name, value in self.log_probs.items()},
            self.sites,
            method="enumeration, averaged over draws",
            settings=self.settings,
            passes=self.passes,
        )


@dataclass(frozen=True)
class GivenDraws:
    r"""Infer the tasks of a model exactly, for each draw of its other sites.

    With parameters theta_s drawn from p(theta | x), by NUTS with the tasks enumerated out, say:

        p(z | x) = 1/S sum_s p(z | x, theta_s),
        p(x_i | theta_s) = sum_k p(x_i, z_i = k | theta_s).

    The second is what leave-one-out and every other predictive criterion need; the likelihood of
    known tasks is not (Vehtari, Gelman and Gabry 2017, arXiv:1507.04544, sec. 2). Sites drawn for
    each element are given too: the likelihood of x_i is that given its own draw.

    Args:
        draws: a finished ``pyro.infer.MCMC``, or draws by site, ``(S,) + shape``, such as
            ``Predictive(guide, num_samples=S)`` returns. What is no latent site of the model is
            left aside, tasks and data included: tasks are summed out.
        infer: how tasks are enumerated.
        chunk_size: how many draws are tried in one run, as a plate outside all others that the
            model has to broadcast over; None tries one after the other, which any model can do.

    Raises:
        TaskSiteError: for a latent site without draws, or draws of another shape; a model that
            does not broadcast; data that no task explains; and see ``Enumeration``.
        ValueError: for no draws, different numbers of them, or an invalid option.

    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("trial", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(mean + z @ torch.tensor([0.0, 1.0]), 0.5), obs=x)
    >>> draws = {"mean": torch.tensor([0.0, 0.1])}
    >>> found = GivenDraws(draws)(model, torch.tensor([0.0, 1.0, 0.5]))
    >>> found.log_likelihood.shape, found.average().probs()[:, 1].round(decimals=2)
    (torch.Size([1, 2, 3]), tensor([0.1000, 0.8600, 0.4500]))
    """

    draws: Draws = field(repr=False)
    infer: Enumeration = Enumeration()
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 or None, got {self.chunk_size}")
        if not isinstance(self.infer, Enumeration):
            raise TypeError(
                f"infer should be Enumeration(...), got a {type(self.infer).__name__}: what is "
                "averaged over draws is the exact posterior of independent elements. For a chain "
                "run the filter at each draw, poutine.condition(model, data={...})"
            )
        if self.infer.temperature != 1:
            raise ValueError(
                "infer should be Enumeration with temperature = 1; got temperature = "
                f"{self.infer.temperature}: a tempered posterior has no likelihood to go with it"
            )

    def __call__(self, model: Model, *args: Any, **kwargs: Any) -> TaskDraws:
        """Infer the task sites of ``model`` called with ``args`` and ``kwargs``."""
        seen = look(model, self.draws, args, kwargs)
        size = self.chunk_size
        # One draw is enough to see whether the elements influence each other.
        later = replace(self, infer=replace(self.infer, check=False))
        found = [
            (later if i else self)._infer(model, at, seen, args, kwargs)
            for i, at in enumerate(seen.chunks(size))
        ]
        log_probs = {n: torch.cat([f.log_probs[n] for f in found]) for n in seen.sites}
        log_likelihood = torch.cat([f.log_likelihood for f in found])
        if size is not None:
            last = seen.at(slice(-1, None), in_plate=False)
            alone = later._infer(model, last, seen, args, kwargs)
            log_likelihood = log_likelihood.reshape(-1, *alone.log_likelihood.shape[1:])
            _check_broadcast(log_probs, log_likelihood, alone)
        chains = next(iter(seen.values.values())).shape[:2]
        return TaskDraws(
            seen.values,
            {name: value.unflatten(0, chains) for name, value in log_probs.items()},
            log_likelihood.unflatten(0, chains),
            seen.sites,
            Passes(*(sum(counts) for counts in zip(*(f.passes for f in found), strict=True))),
            {"draws": type(self.draws).__name__, "chunk_size": size},
            tuple(f.joint for f in found if f.joint is not None),
        )

    def predict(
        self, model: Model, *args: Any, generator: torch.Generator, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Draw data of new elements, one set for each draw: ``(C * S,) + shape`` by site.

        Tasks are drawn from their prior, as those of elements not seen yet: the likelihood by which
        leave-one-out reweighs these draws is the marginal one, too.
        """
        seen = look(model, self.draws, args, kwargs)
        seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
        drawn: dict[str, list[Tensor]] = {name: [] for name in seen.observed}
        with pure(model), torch.no_grad():
            pyro.set_rng_seed(seed)
            for at in seen.chunks(self.chunk_size, data="redraw"):
                trace = poutine.trace(at.around(model)).get_trace(*args, **kwargs)
                for name, values in drawn.items():
                    shape = seen.observed[name].shape
                    values.append(trace.nodes[name]["value"].detach().reshape(-1, *shape))
        return {name: torch.cat(values) for name, values in drawn.items()}

    def _infer(
        self,
        model: Model,
        at: AtDraws,
        seen: DrawnModel,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> _Found:
        """Enumerate the tasks at one draw, or at several in a plate."""
        shapes = {name: site.log_prior.shape for name, site in seen.sites.items()}
        try:
            result = self.infer(at.around(model), *args, **kwargs)
            log_probs = {n: v.reshape(-1, *shapes[n]) for n, v in result.log_probs.items()}
            log_evidence, passes = _log_evidence(result), result.passes
            if seen.local:
                # What was drawn for each element was scored too: p(x | draw) is a ratio.
                hidden = self.infer(at.hiding_data().around(model), *args, **kwargs)
                log_evidence = log_evidence - _log_evidence(hidden)
                passes = Passes(*map(sum, zip(passes, hidden.passes, strict=True)))
        except (RuntimeError, ValueError) as error:
            if not at.in_plate:
                raise
            raise _no_broadcast(str(error)) from error
        log_evidence = log_evidence if at.in_plate else log_evidence.unsqueeze(0)
        return _Found(log_probs, log_evidence, passes, result.joint)


def _log_evidence(result: TaskPosterior) -> Tensor:
    assert result.log_evidence is not None  # at temperature = 1, which is asked for, it never is
    return result.log_evidence


class _Found(NamedTuple):
    log_probs: dict[str, Tensor]
    log_likelihood: Tensor
    passes: Passes
    joint: Joint | None


def _check_broadcast(
    log_probs: Mapping[str, Tensor], log_likelihood: Tensor, alone: _Found
) -> None:
    pairs = [(log_probs[name][-1:].exp(), p.exp()) for name, p in alone.log_probs.items()]
    pairs.append((log_likelihood[-1:], alone.log_likelihood))
    for many, one in pairs:
        tolerance = math.sqrt(torch.finfo(one.dtype).eps)
        if not torch.allclose(many, one, rtol=tolerance, atol=tolerance):
            raise _no_broadcast("the last draw alone has another posterior")


def _no_broadcast(why: str) -> TaskSiteError:
    return TaskSiteError(
        f"the model does not broadcast over draws in a plate outside its own ({why}): expected "
        "values with the draws as leading dimension to pass through it. Take chunk_size=None, or "
        "declare parameters by .to_event(1) and write (z * means).sum(-1) in place of z @ means"
    )
