"""A recurrent network that predicts the next observation, conditioned on the task."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from gbi_pyro._arrays import as_tensor
from gbi_pyro.models._lstm_cell import (
    CarriedLSTM,
    CellWeights,
    LSTMState,
    carried,
    inputs_of,
    lstm_step,
    next_state,
)
from gbi_pyro.models._validate import check_choice, check_series
from gbi_pyro.models.conditioning import Conditioning, make_conditioner
from gbi_pyro.models.initial import initialise, weights_from
from gbi_pyro.models.saved import Rebuildable


class StepsOfLSTM(nn.Module):
    """Base of a network and of a stack of networks: single steps."""

    sigma: Tensor

    def cell(self) -> CellWeights:
        """Return the weights of one step."""
        raise NotImplementedError

    def step(
        self, previous: Tensor, z: Tensor | None, state: LSTMState | CarriedLSTM
    ) -> tuple[dist.Normal, LSTMState]:
        """Predict one step from a carried state: p(x_t | x_t-1, z_t, state); see ``lstm_step``."""
        mean, state = self.advance(previous, z, state)
        return dist.Normal(mean, self.sigma, validate_args=False), state

    def advance(
        self, previous: Tensor, z: Tensor | None, state: LSTMState | CarriedLSTM
    ) -> tuple[Tensor, LSTMState]:
        """Return the mean m_t and the next state; see ``lstm_step``."""
        return lstm_step(self.cell(), previous, z, state)

    def initial_state(self, *batch_shape: int) -> LSTMState:
        """Return the state before the first step, zero."""
        head = self.cell().head
        zero = head.new_zeros((*batch_shape, head.shape[-1]))
        return LSTMState(zero, zero)


class SequenceLSTM(StepsOfLSTM, Rebuildable):
    r"""Linear, LSTM, Linear: p(x_t | x_<t, z_<=t) = Normal(m_t, sigma), sigma learned.

    ::

        z_t ----+
                v
        x_t-1 -> Linear -> LSTM(H) -> Linear -> m_t -> x_t      x: (sequence, time)
                            ^  |                                z: (sequence, time, K)
                     h_t-1 -+  +-> h_t

    One task per step, one network for every K; without a task it is the plain LSTM, its baseline.
    The prediction of x_t sees x before t only. Weight decay (``torch.optim.AdamW``) pulls log
    sigma to 0, which inflates a sigma below 1: give ``log_sigma`` a parameter group without it.

    Args:
        num_tasks: K, or None for the plain LSTM.
        hidden_size: H.
        conditioning: how the task enters, see ``models.conditioning``: "affine" in the last layer,
            after all else, so that it is not carried on; every other way in the first layer.
        log_prior: log probabilities of the tasks of one step, ``(K,)``; uniform without.
        initial_sigma: the standard deviation that learning starts from.
        generator: a seeded generator for the initial weights; torch's random state without one.

    >>> network = SequenceLSTM(num_tasks=2, generator=torch.Generator().manual_seed(0))
    >>> network.mean(torch.zeros(3, 5), network.uniform(3, 5)).shape
    torch.Size([3, 5])
    """

    log_prior: Tensor

    def __init__(
        self,
        num_tasks: int | None = 2,
        hidden_size: int = 64,
        *,
        conditioning: Conditioning = "concat",
        log_prior: Tensor | ArrayLike | None = None,
        initial_sigma: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_tasks is not None and num_tasks < 2:
            raise ValueError(f"num_tasks must be at least 2, or None for none, got {num_tasks}")
        if log_prior is not None:
            log_prior = as_tensor(log_prior, "log_prior", like=torch.zeros(()))
            if log_prior.shape != (num_tasks,):
                raise ValueError(
                    f"log_prior has shape {tuple(log_prior.shape)}, expected ({num_tasks},)"
                )
        if not 0 < initial_sigma < math.inf:
            raise ValueError(f"initial_sigma must be positive and finite, got {initial_sigma}")
        check_choice("conditioning", conditioning, Conditioning)
        if num_tasks is None and conditioning != "concat":
            raise ValueError(
                f"conditioning is {conditioning!r}, but num_tasks=None has no task to enter: give "
                "num_tasks, or leave conditioning out"
            )
        self.num_tasks, self.conditioning = num_tasks, conditioning

        def layer(features: int, out: int, *, conditioned: bool) -> nn.Linear:
            if not conditioned or num_tasks is None:
                return nn.Linear(features, out)
            return make_conditioner(conditioning, features, num_tasks, out)

        with weights_from(generator):
            self.embed = layer(1, hidden_size, conditioned=conditioning != "affine")
            self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)
            self.head = layer(hidden_size, 1, conditioned=conditioning == "affine")
        self.log_sigma = nn.Parameter(torch.tensor(initial_sigma).log())
        self.register_buffer(
            "log_prior", torch.zeros(num_tasks or 0) if log_prior is None else log_prior
        )
        if generator is not None:
            initialise(self, generator)

    @property
    def sigma(self) -> Tensor:  # type: ignore[override]  # derived
        """The learned standard deviation of the noise."""
        return self.log_sigma.exp()

    def uniform(self, *batch_shape: int) -> Tensor:
        """Return the maximum-entropy task, ``batch_shape + (K,)``."""
        return self.log_prior.new_full(
            (*batch_shape, self.num_tasks or 0), 1 / (self.num_tasks or 1)
        )

    def forward(
        self,
        x: Tensor | ArrayLike,
        z: Tensor | ArrayLike | None = None,
        states: LSTMState | CarriedLSTM | None = None,
    ) -> Tensor:
        """Run the Pyro model.

        Args:
            x: observations, ``(sequence, time)``.
            z: the tasks where they are known (training), ``(sequence, time, K)``.
            states: the state before each step, to cut the steps apart; see ``stepwise``.

        Returns:
            The predicted means m, ``(sequence, time)``, with Pyro's enumeration dimensions left of
            them if there are any.
        """
        x = check_series(x, "x", self.log_sigma, "sequence, time")
        task = z if z is None else check_series(z, "z", self.log_sigma, "sequence, time, K")
        sequences, steps = x.shape
        with pyro.plate("sequence", sequences, dim=-2), pyro.plate("time", steps, dim=-1):
            if self.num_tasks is not None:
                # Parameters are valid by construction, and checking them at each step costs time.
                prior = dist.OneHotCategorical(logits=self.log_prior, validate_args=False)
                prior = prior.expand([sequences, steps])  # once, where two plates would do it twice
                task = pyro.sample("z", prior, obs=task, infer={"task": True})
            if states is None:
                mean = self.mean(x, task)
            else:
                mean, _ = self.advance(_previous(x), task, states)
            pyro.sample("x", dist.Normal(mean, self.sigma, validate_args=False), obs=x)
        return mean

    def mean(self, x: Tensor, z: Tensor | None) -> Tensor:
        """Return m_t for all t, ``(..., sequence, time)``, from x before t and z up to t."""
        embedded = self._embedded(_previous(x), z)
        hidden, _ = self.lstm(embedded.flatten(0, -3))  # an LSTM takes one batch dim
        if self.conditioning == "affine":
            affine: Tensor = self.head(hidden, z)
            return affine.squeeze(-1)
        mean: Tensor = self.head(hidden)
        return mean.reshape(embedded.shape[:-1])

    def _embedded(self, previous: Tensor, z: Tensor | None) -> Tensor:
        task = () if self.num_tasks is None or self.conditioning == "affine" else (z,)
        embedded: Tensor = self.embed(previous.unsqueeze(-1), *task)
        return embedded

    def cell(self) -> CellWeights:
        """Return the weights of one step, the embedding folded into the gates.

        Other ways than concatenation do not fold: their gates take what the embedding makes of
        x_t-1 and z_t, ``(4 H, 2 H)``.
        """
        weight, hidden_weight, bias, hidden_bias = self.lstm.all_weights[0]
        if self.conditioning != "concat":
            gates, gates_bias = torch.cat([weight, hidden_weight], -1), bias + hidden_bias
        else:
            gates = torch.cat([weight @ self.embed.weight, hidden_weight], -1)
            gates_bias = weight @ self.embed.bias + bias + hidden_bias
        return CellWeights(gates, gates_bias, self.head.weight, self.head.bias)

    def advance(
        self, previous: Tensor, z: Tensor | None, state: LSTMState | CarriedLSTM
    ) -> tuple[Tensor, LSTMState]:
        """Return the mean m_t and the next state; see ``lstm_step``."""
        if self.conditioning == "concat":
            return super().advance(previous, z, state)
        state = next_state(self.cell(), self._embedded(previous, z), state)
        task = (z,) if self.conditioning == "affine" else ()
        return self.head(state.h, *task).squeeze(-1), state

    @torch.no_grad()
    def carried_states(
        self, x: Tensor | ArrayLike, z: Tensor | ArrayLike | None = None
    ) -> CarriedLSTM:
        """Return the state before each step, ``(sequence, time, H)``, carried under tasks ``z``.

        ``torch.nn.LSTM`` keeps every h but only the last c. The gates depend on h and the inputs
        alone, so they are recomputed for all steps at once; what is left of the recurrence is
        c_t = f_t c_t-1 + i_t g_t.
        """
        x = check_series(x, "x", self.log_sigma, "sequence, time")
        if z is None:
            task = None if self.num_tasks is None else self.uniform(*x.shape)
        else:
            task = check_series(z, "z", self.log_sigma, "sequence, time, K")
        embedded = self._embedded(_previous(x), task)
        hidden, _ = self.lstm(embedded)
        h = torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], 1)
        folded = self.conditioning == "concat"
        return carried(self.cell(), inputs_of(_previous(x), task) if folded else embedded, h)


class SequenceLSTMStack(StepsOfLSTM):
    """Several trained networks run side by side, one for each seed: ``(S, batch)`` in one go.

    Args:
        networks: networks of the same shape, whose weights are copied.

    Raises:
        ValueError: for none, different shapes, or other conditioning than concatenation.
    """

    def __init__(self, networks: Sequence[SequenceLSTM]) -> None:
        super().__init__()
        shapes = [{n: tuple(p.shape) for n, p in m.named_parameters()} for m in networks]
        if not networks or any(s != shapes[0] for s in shapes):
            raise ValueError("a stack takes one network or more, all of the same shape")
        ways = {network.conditioning for network in networks}
        if ways != {"concat"}:
            raise ValueError(
                f"a stack takes networks with conditioning='concat', got {sorted(ways)}: run the "
                "others one by one"
            )
        self.num_tasks = networks[0].num_tasks
        with torch.no_grad():
            cells = [network.cell() for network in networks]
            for name, weights in zip(CellWeights._fields, zip(*cells, strict=True), strict=True):
                self.register_buffer(name, torch.stack(weights))
            self.register_buffer("sigma", torch.stack([m.sigma for m in networks]).unsqueeze(-1))

    def cell(self) -> CellWeights:
        """Return the weights of one step, with a leading dimension S."""
        return CellWeights(*(self.get_buffer(name) for name in CellWeights._fields))


def _previous(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], -1)
