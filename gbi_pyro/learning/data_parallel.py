"""The weight update in several processes, each with its share of the batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gbi_pyro.learning.weights import clamped_loss, nothing_observed, summed_loss
from gbi_pyro.relax import Model
from gbi_pyro.sites import TaskSiteError


def data_parallel_loss(model: Model, *args: Any, **kwargs: Any) -> Tensor:
    r"""Return the loss of one of several processes, whose average is that of the whole batch.

    ``DistributedDataParallel`` averages gradients over P processes. ``clamped_loss`` is a mean over
    the n_p observed values of a process, so that its average is that of the whole batch for shares
    of equal size alone. The average of

        L_p = -(P / sum_p n_p) log p(x_p, Z_p)

    is ``clamped_loss`` of the whole batch, unequal shares and masked data included. In one process
    L_p is ``clamped_loss``.

    Args:
        model: ``DistributedDataParallel(network)``; in one process any Pyro model.
        args, kwargs: what the model takes, the share of this process.

    Returns:
        A scalar in nats.

    Raises:
        TypeError: for another model where there are several processes.
        TaskSiteError: for ``pyro.param`` outside of the network, whose gradients nobody averages;
            see ``clamped_loss`` for others.

    >>> import pyro, torch, pyro.distributions as dist
    >>> def model(x, z):
    ...     prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...     z = pyro.sample("z", prior, obs=z, infer={"task": True})
    ...     pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 1.0), obs=x)
    >>> data_parallel_loss(model, torch.tensor(0.0), torch.tensor([1.0, 0.0]))
    tensor(1.6121)
    """
    count = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if count == 1:
        return clamped_loss(model, *args, **kwargs)
    if not isinstance(model, DistributedDataParallel):
        raise TypeError(
            f"model should be a DistributedDataParallel, as there are {count} processes; got "
            f"{type(model).__name__}, whose gradients are not averaged: give "
            "DistributedDataParallel(network)"
        )
    with _OwnParameters(model):
        loss, observations = summed_loss(model, *args, **kwargs)
    total = torch.tensor(observations, device=loss.device)
    dist.all_reduce(total)
    if not total:
        raise nothing_observed()
    return loss * (count / total.item())


class _OwnParameters(Messenger):
    """Refuse parameters of Pyro that are none of a network's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.known = {id(p) for p in network.parameters()}

    def _pyro_post_param(self, msg: Any) -> None:
        value = msg["value"]
        leaf = value.unconstrained() if hasattr(value, "unconstrained") else value
        if id(leaf) not in self.known:
            raise TaskSiteError(
                f"parameter {msg['name']!r} is none of the network's: expected weights of the "
                "module that DistributedDataParallel holds, got a pyro.param, whose gradients are "
                "not averaged over processes: make it an nn.Parameter of the module, or a PyroParam"
            )


def check_single_process(model: Any, what: str) -> None:
    """Refuse a model that several processes train.

    Raises:
        TypeError: for a ``DistributedDataParallel``.
    """
    if isinstance(model, DistributedDataParallel):
        raise TypeError(
            f"{what} trains in a single process, as its posteriors, prior and history are those of "
            "its own batch; got a DistributedDataParallel: give the module inside"
        )
