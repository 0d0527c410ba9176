"""The steps of a learned refiner over data that come in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gbi_pyro.inference._amortised import check_output
from gbi_pyro.inference._combinations import check_same_elements
from gbi_pyro.inference._slopes import Slopes, has_data, logits_of, slopes, start
from gbi_pyro.inference.refiner_network import LogProbs, RefinerNetwork
from gbi_pyro.logjoint import LogJoint, Passes, RelaxedModel
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSite, TaskSiteError

Arguments = tuple[Any, ...]


class State(NamedTuple):
    """A refinement after a step.

    Attributes:
        before: log probabilities before it, by site.
        log_q: log probabilities after it.
        step: its number among those of its piece of the data, from 1.
        joint: the last run of the model.
        passes: those used for the piece so far.
    """

    before: LogProbs
    log_q: LogProbs
    step: int
    joint: LogJoint
    passes: Passes


def refine_steps(
    network: RefinerNetwork,
    features: Callable[..., Tensor] | None,
    model: Model,
    pieces: Sequence[Arguments],
    kwargs: Mapping[str, Any] | None = None,
    carried: LogProbs | None = None,
) -> Iterator[State]:
    """Yield the state after each step for each piece of the data.

    Gradients reach the weights of the network through log q; those of the model are constants.

    Args:
        network: says how to step.
        features: of the data, called with what the model is called with.
        model: a Pyro model.
        pieces: what it takes, for each piece of the data.
        kwargs: likewise, for all of them.
        carried: log q given the data before, by site: the prior of the first piece, and where its
            steps start. Without it that is the model's prior, and maximum entropy.
    """
    for piece in pieces:
        run, log_q = RelaxedModel(model, piece, kwargs or {}), carried
        for step in range(network.steps):
            if network.use_gradient:
                found = slopes(run, log_q)
            elif not step:
                found = _prior(run)
            if not step:
                _check_sites(network, found.joint.sites, carried)
                seen = has_data(found.joint)
                read = _read(network, features, found.joint, piece, kwargs or {})
            before = log_q or {n: y.log_softmax(-1) for n, y in found.logits.items()}
            prior = carried or found.log_prior
            moved = network(step, before, found.likelihood, prior, read)
            log_q = {n: torch.where(seen[n], q, prior[n].log_softmax(-1)) for n, q in moved.items()}
            yield State(before, log_q, step + 1, found.joint, run.passes)
        carried = log_q


def _prior(run: RelaxedModel) -> Slopes:
    """Read the priors alone; the run counts as a check."""
    joint = run.log_joint(lambda site: site.uniform())
    run.count(check=1)
    priors = {n: s.log_prior.detach() for n, s in joint.sites.items()}
    zeros = {n: torch.zeros_like(p) for n, p in priors.items()}
    return Slopes(joint, {n: start(s) for n, s in joint.sites.items()}, zeros, priors)


def _read(
    network: RefinerNetwork,
    features: Callable[..., Tensor] | None,
    joint: LogJoint,
    piece: Arguments,
    kwargs: Mapping[str, Any],
) -> Tensor | None:
    if features is None:
        return None
    batch_shape = next(iter(joint.sites.values())).batch_shape
    found = check_output("features", features(*piece, **kwargs), batch_shape, network.num_features)
    return found.detach().to(network.step_size_logits)


def _check_sites(
    network: RefinerNetwork, sites: Mapping[str, TaskSite], carried: LogProbs | None
) -> None:
    check_same_elements(sites, "LearnedRefiner")
    sizes = {n: s.num_tasks for n, s in sites.items()}
    if sizes != network.sizes:
        raise TaskSiteError(
            "the model should have the task sites that the refiner was fitted to, with their "
            f"numbers of tasks, {network.sizes}; got {sizes}: fit a refiner to this model"
        )
    if carried:
        for site in sites.values():
            logits_of(site, carried)
