"""A word-level transformer conditioned on the corpus."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gbi_pyro.models.conditioning import Conditioning, make_conditioner
from gbi_pyro.models.initial import initialise, weights_from
from gbi_pyro.models.language_model import START, LanguageModel, check_language_options


class CarriedWords(NamedTuple):
    """Keys and values of words that were read, of all layers.

    Attributes:
        keys: ``(layers, sequence, heads, time, size of a head)``.
        values: likewise.
    """

    keys: Tensor
    values: Tensor


class LanguageTransformer(LanguageModel):
    r"""Embedding, causal transformer, tied softmax: p(w_t | w_<t, z), with the corpus as task z.

    ::

        z -------+--------------------------+----------+
                 v (input)                  v (head)   v (inout)
        w_t-1 -> E + position -> blocks -> Linear -> E' -> softmax -> w_t
                                 ^
              keys, values of s <= t

    Each block adds attention over the words so far and then a layer of 4 times the width, both of
    normalised features (pre-norm; Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020,
    arXiv:2002.04745). One task per sequence. With ``conditioning="affine"`` the blocks do not see
    the task and each task has a head of its own, which leaves the logits affine in z: then one
    gradient step misses the exact posterior by the curvature of the softmax alone. Other kinds
    condition the embedded word; one step is poor there, and enumeration right.

    With ``states`` (see ``stepwise``) word t attends to the carried keys of the words before it and
    to its own, made under its own task: every word's evidence in one pass.

    Args:
        vocabulary_size: V.
        num_tasks: K, or None for the plain transformer.
        width: of the features and the embedding.
        layers: how many blocks.
        heads: of attention; they divide the width.
        inout: whether the task enters the logits too.
        conditioning: ``"affine"`` at the head, every other kind at the input; see
            ``make_conditioner``.
        longest: how many words a text has at most: positions are learned.
        generator: a seeded generator for the initial weights; torch's random state without one.

    Raises:
        ValueError: for sizes out of range, or options of a task without one; when called, for a
            longer text.

    >>> network = LanguageTransformer(50, num_tasks=3, generator=torch.Generator().manual_seed(0))
    >>> network.logits(torch.tensor([[4, 2, 7]]), network.uniform(1)).shape
    torch.Size([1, 3, 50])
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_tasks: int | None = 2,
        width: int = 32,
        layers: int = 2,
        heads: int = 4,
        *,
        inout: bool = False,
        conditioning: Conditioning = "concat",
        longest: int = 512,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_language_options(vocabulary_size, num_tasks, inout, conditioning)
        if min(width, layers, heads, longest) < 1 or width % heads:
            raise ValueError(
                "width, layers, heads and longest must be at least 1, and heads divide the width; "
                f"got width={width}, layers={layers}, heads={heads}, longest={longest}"
            )
        self.num_tasks, self.conditioning = num_tasks, conditioning
        self.longest = longest
        with weights_from(generator):
            self.embedding = nn.Embedding(vocabulary_size, width)
            self.position = nn.Parameter(torch.empty(longest, width))
            self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
            self.norm = nn.LayerNorm(width)
            self.project = nn.Linear(width, width)
            if num_tasks and conditioning == "affine":
                self.project = make_conditioner("affine", width, num_tasks, width)
            elif num_tasks:
                self.conditioner = make_conditioner(conditioning, width, num_tasks, width)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.task_bias = None
        if num_tasks and inout:
            self.task_bias = nn.Parameter(torch.zeros(vocabulary_size, num_tasks))
        if generator is not None:
            initialise(self, generator)
            for norm in self.modules():
                if isinstance(norm, nn.LayerNorm):
                    norm.reset_parameters()
        # Logits of unit features times these start near zero, and words start near equal.
        for weight in (self.embedding.weight, self.position):
            nn.init.normal_(weight, std=0.1, generator=generator)

    def hidden(self, words: Tensor, z: Tensor | None, states: CarriedWords | None) -> Tensor:
        """Return the features from which w_t is predicted, ``(..., sequence, time, width)``."""
        features = self._inputs(self._previous(words), z, 0)
        for i, block in enumerate(self.blocks):
            carried = None if states is None else (states.keys[i], states.values[i])
            features, _, _ = block(features, carried)
        normed: Tensor = self.norm(features)
        return normed

    @torch.no_grad()
    def carried_states(self, words: Tensor, z: Tensor | None = None) -> CarriedWords:
        """Return keys and values of every word, carried under tasks ``z``.

        Args:
            words: ``(sequence, time)``.
            z: ``(sequence, 1 or time, K)``; maximum entropy without.
        """
        if z is None and self.num_tasks is not None:
            z = self.uniform(len(words))
        features = self._inputs(self._previous(words), z, 0)
        kept = []
        for block in self.blocks:
            features, key, value = block(features)
            kept.append((key, value))
        keys, values = zip(*kept, strict=True)
        return CarriedWords(torch.stack(keys), torch.stack(values))

    def step(
        self, previous: Tensor | None, z: Tensor | None = None, carried: CarriedWords | None = None
    ) -> tuple[Tensor, CarriedWords]:
        """Return the logits of the next word of live texts, and what to carry on.

        Args:
            previous: the word before it, ``(sequence,)``; None for one text that begins.
            z: its task, ``(sequence, K)``; maximum entropy without.
            carried: what the last step returned; None at the beginning.

        Returns:
            Logits, ``(sequence, V)``, and the keys and values so far.

        Raises:
            ValueError: beyond the longest text.

        >>> network = LanguageTransformer(9, 2, generator=torch.Generator().manual_seed(0)).eval()
        >>> logits, carried = network.step(None)
        >>> logits, carried = network.step(torch.tensor([4]), carried=carried)
        >>> whole = network.logits(torch.tensor([[4, 7]]), network.uniform(1))[:, -1]
        >>> bool((whole - logits).abs().max() < 1e-6)
        True
        """
        if previous is None:
            previous = torch.full((1,), START, device=self.bias.device)
        if z is None and self.num_tasks is not None:
            z = self.uniform(len(previous)).squeeze(1)
        task = None if z is None else z.unsqueeze(-2)
        time = 0 if carried is None else carried.keys.shape[-2]
        features = self._inputs(self.embedding(previous).unsqueeze(1), task, time)
        kept = []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            past = None if carried is None else (carried.keys[i], carried.values[i])
            features, key, value = block.step(features, past)
            kept.append((key, value))
        keys, values = zip(*kept, strict=True)
        logits = self.logits_of(self.norm(features), task)
        return logits.squeeze(-2), CarriedWords(torch.stack(keys), torch.stack(values))

    def _inputs(self, embedded: Tensor, z: Tensor | None, start: int) -> Tensor:
        """Return embedded words at their positions, conditioned on the task."""
        time = embedded.shape[-2]
        if start + time > self.longest:
            raise ValueError(
                f"words should be texts of at most longest={self.longest} words; got "
                f"{start + time}: cut them, or build the network for longer ones"
            )
        features = embedded + self.position[start : start + time]
        if z is None or self.conditioning == "affine":
            return features
        conditioned: Tensor = self.conditioner(features, z)
        return conditioned


class Block(nn.Module):
    """Attention over the words so far, then a wide layer; both add to normalised features.

    Args:
        width: of the features.
        heads: of attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, x: Tensor, carried: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features, and the keys and values of each word.

        Args:
            x: ``(..., time, width)``.
            carried: keys and values of the words, ``(..., heads, time, size)``: each word attends
                to those before it there, and to its own key.
        """
        query, key, value = self._heads(x)
        time = x.shape[-2]
        scores = query @ (key if carried is None else carried[0]).mT
        future = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(
            1 if carried is None else 0
        )
        scores = scores.masked_fill(future, -torch.inf)
        if carried is None:
            mixed = scores.softmax(-1) @ value
        else:
            own = (query * key).sum(-1, keepdim=True)
            weights = torch.cat([scores, own], -1).softmax(-1)
            mixed = weights[..., :-1] @ carried[1] + weights[..., -1:] * value
        return self._added(x, mixed), key, value

    def step(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of one more word, ``(..., 1, width)``, and all keys and values."""
        query, key, value = self._heads(x)
        if past is not None:
            key, value = torch.cat([past[0], key], -2), torch.cat([past[1], value], -2)
        return self._added(x, (query @ key.mT).softmax(-1) @ value), key, value

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (scaled), keys and values, ``(..., heads, time, size)``."""
        parts = self.attention(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.movedim((-3, -2), (0, -3)).unbind(0)
        return query / query.shape[-1] ** 0.5, key, value

    def _added(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.out(mixed.movedim(-3, -2).flatten(-2))
        added: Tensor = x + self.wide(self.second_norm(x))
        return added
