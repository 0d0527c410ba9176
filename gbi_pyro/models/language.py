"""A word-level language model conditioned on the corpus."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gbi_pyro.models._lstm_cell import LSTMState
from gbi_pyro.models.conditioning import Conditioning, make_conditioner
from gbi_pyro.models.initial import initialise, weights_from
from gbi_pyro.models.language_model import LanguageModel, check_language_options


class LanguageLSTM(LanguageModel):
    r"""Embedding, LSTM, tied softmax: p(w_t | w_<t, z), with the corpus as task z.

    ::

        z ------+-----------+---------+
                v (paper)   v (head)  v (inout)
        w_t-1 -> E -> LSTM -> Linear -> E' -> softmax -> w_t     w: (sequence, time)
                      ^  |                                       z: (sequence, 1, K)
               h_t-1 -+  +-> h_t

    One task per sequence. In the paper (Hummos et al., arXiv 2407.17356) it reaches the input of
    the LSTM at every word; with ``inout`` the logits as well, by a linear term: what words a corpus
    likes. With ``conditioning="affine"`` the LSTM does not see the task and each task has a head of
    its own, which leaves the logits affine in z: then one gradient step misses the exact posterior
    by the curvature of the softmax alone. The embedding E is also the softmax's matrix (Press and
    Wolf 2017, arXiv:1608.05859). Without a task it is the plain LSTM, its baseline. The word before
    the first is ``<eos>``.

    Args:
        vocabulary_size: V.
        num_tasks: K, or None for the plain LSTM.
        embedding_size: of a word.
        hidden_size: H.
        inout: whether the task enters the logits too.
        first_from_biases: whether the first word is predicted by the biases of the logits alone.
            Else it is predicted as if it followed ``<eos>``, which is wrong of texts that begin
            anywhere.
        conditioning: how the task enters: ``"affine"`` at the head, every other kind at the input
            of the LSTM; see ``make_conditioner``.
        generator: a seeded generator for the initial weights; torch's random state without one.

    Raises:
        ValueError: for sizes out of range, or options of a task without one.

    >>> network = LanguageLSTM(50, num_tasks=3, generator=torch.Generator().manual_seed(0))
    >>> network.logits(torch.tensor([[4, 2, 7]]), network.uniform(1)).shape
    torch.Size([1, 3, 50])
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_tasks: int | None = 2,
        embedding_size: int = 100,
        hidden_size: int = 200,
        *,
        inout: bool = False,
        first_from_biases: bool = False,
        conditioning: Conditioning = "concat",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_language_options(vocabulary_size, num_tasks, inout, conditioning)
        self.num_tasks, self.conditioning = num_tasks, conditioning
        self.first_from_biases = first_from_biases
        beside = (num_tasks or 0) if conditioning == "concat" else 0
        with weights_from(generator):
            self.embedding = nn.Embedding(vocabulary_size, embedding_size)
            self.lstm = nn.LSTM(embedding_size + beside, hidden_size, batch_first=True)
            self.project = nn.Linear(hidden_size, embedding_size)
            if num_tasks and conditioning == "affine":
                self.project = make_conditioner("affine", hidden_size, num_tasks, embedding_size)
            elif num_tasks and conditioning != "concat":
                self.conditioner = make_conditioner(
                    conditioning, embedding_size, num_tasks, embedding_size
                )
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.task_bias = None
        if num_tasks and inout:
            self.task_bias = nn.Parameter(torch.zeros(vocabulary_size, num_tasks))
        if generator is not None:
            initialise(self, generator)
        # Logits of unit features times these start near zero, and words start near equal.
        nn.init.normal_(self.embedding.weight, std=0.1, generator=generator)

    def hidden(self, words: Tensor, z: Tensor | None, states: LSTMState | None) -> Tensor:
        """Return the state after w_t-1, ``(..., sequence, time, H)``."""
        inputs = self._inputs(words, z)
        if states is not None:
            return self._cell(inputs, states).h
        found, _ = self.lstm(inputs.flatten(0, -3))  # an LSTM takes one batch dimension
        hidden: Tensor = found.reshape(*inputs.shape[:-1], -1)
        return hidden

    def _inputs(self, words: Tensor, z: Tensor | None) -> Tensor:
        embedded = self._previous(words)
        if z is None or self.conditioning == "affine":
            return embedded
        if self.conditioning != "concat":
            conditioned: Tensor = self.conditioner(embedded, z)
            return conditioned
        # An enumerated task comes as (K, 1, .., K): it spans its own dimension and no plate.
        batch = torch.broadcast_shapes(embedded.shape[:-1], z.shape[:-1])
        return torch.cat([embedded.expand(*batch, -1), z.expand(*batch, -1)], -1)

    def _cell(self, inputs: Tensor, state: LSTMState) -> LSTMState:
        """Run one step of the LSTM for every element, whatever their dimensions."""
        batch = torch.broadcast_shapes(inputs.shape[:-1], state.h.shape[:-1])
        flat = [v.expand(*batch, -1).flatten(0, -2) for v in (inputs, *state)]
        h, c = torch.lstm_cell(flat[0], flat[1:], *self.lstm.all_weights[0])
        return LSTMState(h.reshape(*batch, -1), c.reshape(*batch, -1))

    @torch.no_grad()
    def carried_states(self, words: Tensor, z: Tensor | None = None) -> LSTMState:
        """Return the state before each word, ``(sequence, time, H)``, carried under tasks ``z``."""
        if z is None and self.num_tasks is not None:
            z = self.uniform(len(words))
        inputs = self._inputs(words, z)
        zero = self.bias.new_zeros(len(words), self.lstm.hidden_size)
        states = [LSTMState(zero, zero)]
        for step in inputs[:, :-1].unbind(1):
            states.append(self._cell(step, states[-1]))
        h, c = zip(*states, strict=True)
        return LSTMState(torch.stack(h, 1), torch.stack(c, 1))
