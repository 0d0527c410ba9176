"""Networks of different task inputs that learn side by side, one weight update for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gbi_pyro.models.sequence import SequenceLSTM


class LearningStack(nn.Module):
    """Networks of the same hidden size, each with its own data, trained side by side.

    Given their data the networks are independent, and Adam moves each weight by its own gradient
    alone: as many trainings as networks, at the cost of few. ``SequenceLSTMStack`` is for networks
    that have learned; it has the embedding folded into the gates.

    The plain LSTM is among them as a network whose weights of the task are zero. As long as its
    task is zero too, these have no gradient and stay so.

    Args:
        networks: of the same K, all conditioned by concatenation, or the plain LSTM; or all with a
            head for each task, ``conditioning="affine"``. Their weights are copied.

    Raises:
        ValueError: for none, different sizes, or other conditioning.

    >>> stack = LearningStack([SequenceLSTM(2, 4), SequenceLSTM(None, 4)])
    >>> stack.mean(torch.zeros(2, 1, 5), torch.zeros(2, 1, 5, 2)).shape
    torch.Size([2, 1, 5])
    """

    def __init__(self, networks: Sequence[SequenceLSTM]) -> None:
        super().__init__()
        tasks = {n.num_tasks for n in networks} - {None}
        sizes = {(n.lstm.hidden_size, n.conditioning) for n in networks}
        if len(tasks) > 1 or len(sizes) != 1 or next(iter(sizes))[1] not in ("concat", "affine"):
            raise ValueError(
                "a stack takes one network or more of one hidden size and number of tasks, "
                "conditioned by concatenation, or all by an affine head; got sizes and "
                f"conditioning {sorted(sizes)}, numbers of tasks {sorted(t for t in tasks if t)}"
            )
        self.heads = next(iter(sizes))[1] == "affine"
        width = 1 if self.heads else 1 + max((n.num_tasks or 0) for n in networks)

        def stacked(name: str) -> nn.Parameter:
            return nn.Parameter(torch.stack([n.get_parameter(name).detach() for n in networks]))

        embed = [
            nn.functional.pad(n.embed.weight, (0, width - n.embed.in_features)) for n in networks
        ]
        self.embed_weight = nn.Parameter(torch.stack(embed).detach())
        self.embed_bias = stacked("embed.bias")
        self.input_weight = stacked("lstm.weight_ih_l0")
        self.input_bias = stacked("lstm.bias_ih_l0")
        self.hidden_weight = stacked("lstm.weight_hh_l0")
        self.hidden_bias = stacked("lstm.bias_hh_l0")
        self.head_weight = stacked("head.weight")  # (S, K, H) of heads, else (S, 1, H)
        self.head_bias = stacked("head.bias")
        self.log_sigma = stacked("log_sigma")

    @property
    def sigma(self) -> Tensor:
        """The learned standard deviations, ``(S,)``."""
        return self.log_sigma.exp()

    def freeze_trunk(self) -> None:
        """Leave the embedding and the LSTM as they are; heads and sigma still learn."""
        for name, weight in self.named_parameters():
            weight.requires_grad_(name.startswith(("head_", "log_sigma")))

    def mean(self, x: Tensor, z: Tensor) -> Tensor:
        """Return m_t for all t, ``(S, sequence, time)``, from x before t and z up to t.

        Args:
            x: ``(S, sequence, time)``.
            z: ``(S, sequence, time, K)``; zero for the plain LSTM.
        """
        stack, sequences, steps = x.shape
        previous = torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], -1)
        inputs = [previous.unsqueeze(-1)] if self.heads else [previous.unsqueeze(-1), z]
        embedded = _affine(torch.cat(inputs, -1).flatten(1, 2), self.embed_weight, self.embed_bias)
        # What comes in is known for all steps at once; only what is carried on goes step by step.
        gates = _affine(embedded, self.input_weight, self.input_bias + self.hidden_bias)
        h = c = x.new_zeros(stack, sequences, self.hidden_weight.shape[-1])
        hidden = []
        for step in gates.unflatten(1, (sequences, steps)).unbind(-2):
            i, f, g, o = torch.baddbmm(step, h, self.hidden_weight.mT).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hidden.append(h)
        mean = _affine(torch.stack(hidden, -2).flatten(1, 2), self.head_weight, self.head_bias)
        if self.heads:
            mean = (mean * z.flatten(1, 2)).sum(-1)
        return mean.reshape(x.shape)

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        """Return -log p(x | z) per observation, summed over networks, to be descended."""
        noise = torch.distributions.Normal(
            self.mean(x, z), self.sigma[:, None, None], validate_args=False
        )
        loss: Tensor = -noise.log_prob(x).mean((-1, -2)).sum()
        return loss


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)
