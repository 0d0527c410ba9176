"""A categorical over a large vocabulary, cheap to score and to differentiate."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class Words(TorchDistribution):
    """A categorical over a vocabulary, by logits that need not be normalised.

    log p(w) = logit_w - logsumexp(logits). Pyro's ``Categorical`` writes the normalised logits of
    the whole vocabulary before it looks one of them up, which costs a language model more than
    anything else in its backward pass.

    Args:
        logits: ``(..., V)``.

    >>> Words(torch.tensor([0.0, 0.0])).log_prob(torch.tensor(1))
    tensor(-0.6931)
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    has_enumerate_support = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """Allow the ids of the words, 0 .. V - 1."""
        return constraints.integer_interval(0, self.logits.shape[-1] - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Words:
        """Return the same distribution for more elements."""
        shape = torch.Size(batch_shape)
        return Words(self.logits.expand(*shape, self.logits.shape[-1]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(w) of each word, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        logits = self.logits.expand(*shape, self.logits.shape[-1])
        found = logits.gather(-1, value.expand(shape).unsqueeze(-1)).squeeze(-1)
        return found - self.logits.logsumexp(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw words."""
        with torch.no_grad():
            categorical = dist.Categorical(logits=self.logits, validate_args=False)
            words: Tensor = categorical.sample(sample_shape)
            return words
