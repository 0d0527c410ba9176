"""A Pyro guide whose task sites are inferred, not learned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from gbi_pyro.inference.gradient import OneStepGradient
from gbi_pyro.posterior import TaskPosterior
from gbi_pyro.relax import Model
from gbi_pyro.sites import Plate


class AutoTaskGuide:
    """Guide that draws the tasks of a model from their inferred posterior q(z | x).

    Tasks that hang together, several sites or the steps of a smoothed chain, are drawn together.
    It has no parameters: at each call it runs the inference on the data it is given. So it works
    wherever Pyro takes a guide: in ``SVI`` to train the weights, in ``Predictive`` to draw from the
    posterior predictive, in importance sampling to correct a one-step posterior. Its sites copy the
    ``infer`` settings that ``config_enumerate`` and its like put on them.

    Args:
        model: a Pyro model whose latent sites are task sites.
        infer: the inference to use.

    Raises:
        TypeError: for a model or an inference that cannot be called.

    >>> def model(x):
    ...     with pyro.plate("sequence", len(x)):
    ...         prior = dist.OneHotCategorical(torch.tensor([0.5, 0.5]))
    ...         z = pyro.sample("z", prior, infer={"task": True})
    ...         pyro.sample("x", dist.Normal(z @ torch.tensor([0.0, 1.0]), 0.1), obs=x)
    >>> AutoTaskGuide(model)(torch.tensor([0.02, 0.97]))["z"]
    tensor([[1., 0.],
            [0., 1.]])
    """

    def __init__(self, model: Model, infer: Callable[..., TaskPosterior] | None = None) -> None:
        if (
            isinstance(model, OneStepGradient)
            or not callable(model)
            or not callable(infer or model)
        ):
            raise TypeError(
                f"AutoTaskGuide takes a model and an inference, got {type(model).__name__} and "
                f"{type(infer).__name__}: AutoTaskGuide(model, infer=OneStepGradient())"
            )
        self._model = (model,)  # in a tuple, so that the guide does not own the model's weights
        self.infer = infer or OneStepGradient()

    @property
    def model(self) -> Model:
        """The model."""
        return self._model[0]

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Infer the tasks and draw them; returns one-hot values by site."""
        with torch.enable_grad():  # Predictive calls its guide without gradients
            posterior = self.infer(self.model, *args, **kwargs)
        draws: dict[str, Tensor] = {}
        joint = posterior.joint
        for name in (*(joint.sites if joint else ()), *posterior.log_probs):
            if name in draws:
                continue
            site = posterior.sites[name]
            if joint and name in joint.sites:
                given = {n: z.argmax(-1) for n, z in draws.items()}
                tasks = joint.conditional(name, given)
            else:
                tasks = dist.OneHotCategorical(logits=posterior.log_probs[name])
            with contextlib.ExitStack() as stack:
                for i, plate in enumerate(site.plates):
                    if plate is not None:
                        stack.enter_context(_open(plate, dim=i - len(site.plates)))
                draws[name] = pyro.sample(name, tasks)
        return draws


def _open(plate: Plate, dim: int) -> pyro.plate:
    # Only the scale of a subsampling counts here. Which elements it holds is the model's business:
    # hidden from the guide's trace, these indices replace none of the model's on replay, and sites
    # may share the plate.
    with poutine.block():
        indices = torch.arange(plate.size)
        return pyro.plate(plate.name, plate.full_size, subsample=indices, dim=dim)
