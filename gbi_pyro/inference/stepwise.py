"""Likelihoods of single steps of a recurrent network, each given its past alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from gbi_pyro._arrays import as_tensor, floating_weight
from gbi_pyro.logjoint import Passes
from gbi_pyro.purity import pure
from gbi_pyro.relax import Model


class CarriesState(Protocol):
    """A recurrent Pyro model that can start each of its steps from a state given to it."""

    # `Any` all through: a model names its own arguments.
    def carried_states(self, *args: Any, **tasks: Any) -> Any:
        """Return the state before each step, for tasks by site name (maximum entropy if absent)."""

    def __call__(self, *args: Any, **states: Any) -> Any:
        """Run the model; with ``states=...``, each step from its own state, all in parallel."""


def stepwise(model: CarriesState, *args: Any, tasks: Mapping[str, Tensor] | None = None) -> Model:
    """Return a recurrent model with its carried states fixed: p(x_t | x_<t, z_t) for each step.

    In a recurrent network the gradient with respect to z_t also sees what comes after t, through
    the carried state. Here the states are computed once, without gradient, and every step is
    evaluated in parallel from its own: steps no longer influence each other, so ``OneStepGradient``
    gives d log p(x_t | x_<t) / d z_t alone, its second order and ``Enumeration`` are exact step by
    step, and ``BayesFilter`` puts them together over time.

    Args:
        model: a recurrent model with ``carried_states``, such as ``SequenceLSTM``.
        args: what the model takes.
        tasks: the tasks under which the past is carried, by site; maximum entropy without.

    Returns:
        A Pyro model of no arguments. Its cost includes one forward pass for the states.

    Raises:
        TypeError: when the model has no ``carried_states``.
    """
    if not hasattr(model, "carried_states"):
        raise TypeError(
            f"{type(model).__name__} has no carried_states(*args, **tasks): expected a recurrent "
            "model that can start each step from a given state; see CarriesState"
        )
    like = floating_weight(model)
    given = {name: as_tensor(q, f"tasks[{name!r}]", like=like) for name, q in (tasks or {}).items()}
    with pure(model), torch.no_grad():
        states = model.carried_states(*args, **given)
    cut = partial(model, *args, states=states)
    cut.passes_used = Passes(forward=1)  # type: ignore[attr-defined]  # RelaxedModel reads it
    return cut
