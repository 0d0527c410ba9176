"""What word-level language models conditioned on a task share."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from gbi_pyro.models.conditioning import Conditioning
from gbi_pyro.models.saved import Rebuildable
from gbi_pyro.models.words import Words

START = 1  # <eos>, the word before the first one


class LanguageModel(Rebuildable):
    """A Pyro model of texts, p(w_t | w_<t, z), one task per sequence, with a tied softmax.

    A network defines ``hidden`` and ``carried_states``; the embedding is the softmax's matrix too
    (Press and Wolf 2017, arXiv:1608.05859).

    Attributes:
        num_tasks: K, or None without a task.
        conditioning: how the task enters.
        embedding: of words, whose weights make the logits.
        project: from hidden features to the embedding's; conditioned on the task if it is
            "affine".
        bias: of the logits, ``(V,)``.
        task_bias: what words a task likes, ``(V, K)``, or None.
        first_from_biases: whether the first word is predicted by the biases alone.
    """

    num_tasks: int | None
    conditioning: Conditioning
    embedding: nn.Embedding
    project: nn.Module
    bias: nn.Parameter
    task_bias: nn.Parameter | None
    first_from_biases: bool = False

    def hidden(self, words: Tensor, z: Tensor | None, states: Any) -> Tensor:
        """Return the features from which w_t is predicted, ``(..., sequence, time, features)``."""
        raise NotImplementedError

    def carried_states(self, words: Tensor, z: Tensor | None = None) -> Any:
        """Return what each word needs of its past, carried under tasks ``z``; see ``stepwise``."""
        raise NotImplementedError

    def uniform(self, sequences: int) -> Tensor:
        """Return the maximum-entropy task of some sequences, ``(sequence, 1, K)``."""
        return self.bias.new_full((sequences, 1, self.num_tasks or 0), 1 / (self.num_tasks or 1))

    def forward(self, words: Tensor, z: Tensor | None = None, states: Any = None) -> Tensor:
        """Run the Pyro model.

        Args:
            words: ids of words, ``(sequence, time)``.
            z: the tasks where they are known (training), ``(sequence, 1, K)``.
            states: the state before each word, to cut the words apart: every word then has a task
                of its own, ``(sequence, time, K)``; see ``stepwise``.

        Returns:
            The logits of each word, ``(sequence, time, V)``, with Pyro's enumeration dimensions
            left of them if there are any.
        """
        sequences, steps = words.shape
        with pyro.plate("sequence", sequences, dim=-2):
            if self.num_tasks is not None and states is None:
                z = self._task(z, sequences, 1)
            with pyro.plate("time", steps, dim=-1):
                if self.num_tasks is not None and states is not None:
                    z = self._task(z, sequences, steps)
                logits = self.logits(words, z, states)
                pyro.sample("words", Words(logits, validate_args=False), obs=words)
        return logits

    def _task(self, z: Tensor | None, *shape: int) -> Tensor:
        prior = dist.OneHotCategorical(logits=self.bias.new_zeros(self.num_tasks or 0))
        sampled: Tensor = pyro.sample("z", prior.expand(shape), obs=z, infer={"task": True})
        return sampled

    def logits(self, words: Tensor, z: Tensor | None = None, states: Any = None) -> Tensor:
        """Return the logits of w_t for all t, ``(..., sequence, time, V)``, from w before t.

        Args:
            words: ``(sequence, time)``.
            z: the task, ``(..., sequence, 1 or time, K)``; None for the plain LSTM.
            states: the state before each word; None runs through the text from state zero.
        """
        return self.logits_of(self.hidden(words, z, states), z, begins=True)

    def logits_of(self, hidden: Tensor, z: Tensor | None, *, begins: bool = False) -> Tensor:
        """Return the logits of the words that follow, ``(..., sequence, time, V)``.

        Args:
            hidden: features, ``(..., sequence, time, features)``.
            z: the task, ``(..., sequence, 1 or time, K)``.
            begins: whether these are the features of a text from its first word on.
        """
        task = (z,) if self.conditioning == "affine" else ()
        features, weight = self.project(hidden, *task), self.embedding.weight
        if begins and self.first_from_biases:
            later = torch.arange(features.shape[-2], device=features.device) > 0
            features = features * later.unsqueeze(-1)
        if self.task_bias is not None:
            # The task as further features: the wide logits are written once.
            assert z is not None
            features = torch.cat([features, z.expand(*features.shape[:-1], -1)], -1)
            weight = torch.cat([weight, self.task_bias], -1)
        return nn.functional.linear(features, weight, self.bias)

    def log_prob(self, words: Tensor, z: Tensor | None = None, states: Any = None) -> Tensor:
        """Return log p(w_t | w_<t, z) of each word, ``(..., sequence, time)``; see ``logits``."""
        return Words(self.logits(words, z, states), validate_args=False).log_prob(words)

    @torch.no_grad()
    def log_likelihoods(self, words: Tensor) -> Tensor:
        """Return log p(w_t | w_<t, k) of each word under every task, ``(sequence, time, K)``.

        Its sums over the first n words are what ``Enumeration`` of that text knows, for all n at
        once; K forward passes, or one and K of the head where the task enters there alone.
        """
        shared = self.hidden(words, None, None) if self.conditioning == "affine" else None
        each = []
        for corner in torch.eye(self.num_tasks or 0).to(self.bias):
            z = corner.expand(len(words), 1, -1)
            if shared is None:
                logits = self.logits(words, z)
            else:
                logits = self.logits_of(shared, z, begins=True)
            each.append(Words(logits, validate_args=False).log_prob(words))
        return torch.stack(each, -1)

    @torch.no_grad()
    def start_at_unigrams(self, log_probs: Tensor) -> None:
        """Set the biases of the logits to log frequencies of words, before the network learns.

        With p_k(w) the frequency of a word under task k, bias_w = log mean_k p_k(w), and where the
        task enters the logits (``inout``) task_bias_wk = log p_k(w) - bias_w: as long as features
        are near zero, p(w_t | w_<t, k) is the unigram model p_k(w_t).

        Args:
            log_probs: log p_k(w), ``(K, V)``; any number of rows where no task enters the logits.

        Raises:
            ValueError: for another shape, or values that are not finite.

        >>> from gbi_pyro.models import LanguageLSTM
        >>> draw = torch.Generator().manual_seed(0)
        >>> network = LanguageLSTM(3, 2, inout=True, generator=draw)
        >>> network.start_at_unigrams(torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]).log())
        >>> (network.bias + network.task_bias.T).softmax(-1).detach()
        tensor([[0.5000, 0.2500, 0.2500],
                [0.2500, 0.5000, 0.2500]])
        """
        tasks = (self.num_tasks,) if self.task_bias is not None else log_probs.shape[:1]
        if log_probs.shape != (*tasks, len(self.bias)):
            raise ValueError(
                f"log_probs should be ({self.num_tasks or 'any'}, {len(self.bias)}), a row for "
                f"each task; got {tuple(log_probs.shape)}"
            )
        if not bool(log_probs.isfinite().all()):
            raise ValueError(
                "log_probs should be finite, got a word of probability zero: smooth the counts"
            )
        pooled = log_probs.logsumexp(0) - math.log(len(log_probs))
        self.bias.copy_(pooled)
        if self.task_bias is not None:
            self.task_bias.copy_((log_probs - pooled).mT)

    def _previous(self, words: Tensor) -> Tensor:
        """Return the embedding of the word before each, ``(sequence, time, embedding)``."""
        before = torch.cat([torch.full_like(words[:, :1], START), words[:, :-1]], 1)
        embedded: Tensor = self.embedding(before)
        return embedded


def check_language_options(
    vocabulary_size: int, num_tasks: int | None, inout: bool, conditioning: Conditioning
) -> None:
    """Check the options that all language models take.

    Raises:
        ValueError: for sizes out of range, or options of a task without one.
    """
    if vocabulary_size < 2:
        raise ValueError(f"vocabulary_size must be at least 2, got {vocabulary_size}")
    if num_tasks is not None and num_tasks < 2:
        raise ValueError(f"num_tasks must be at least 2, or None for none, got {num_tasks}")
    if inout and num_tasks is None:
        raise ValueError("inout=True needs a task: give num_tasks")
    if num_tasks is None and conditioning != "concat":
        raise ValueError(
            f"conditioning is {conditioning!r}, but num_tasks=None has no task to enter: give "
            "num_tasks, or leave conditioning out"
        )
