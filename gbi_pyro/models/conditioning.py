"""Conditioning: the ways a task enters a network, with one interface."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from gbi_pyro.models._validate import check_choice
from gbi_pyro.models.initial import initialise, weights_from
from gbi_pyro.models.layers import concatenate

Conditioning = Literal["concat", "additive", "gain", "mask", "film", "hypernetwork", "affine"]
WIDEST = 2**16  # units that a search for a width looks at


class Conditioner(nn.Linear):
    """A linear layer conditioned on the task: features h and a task z in, features y out.

    Each kind says what the task does to the layer W h + b. All are maps of z by matrix products,
    so that any point of the simplex, and beyond it, is a legal task with a gradient.

    Args:
        features: F, the size of h.
        num_tasks: K.
        out: the size of y.
        columns: size of what W multiplies, if it is not h alone.
        rows: size of what W makes, if it is not y at once.
        bias: whether there is a b.

    Raises:
        ValueError: for sizes that make no layer.
    """

    affine: ClassVar[bool] = True  # in z; but whatever nonlinearity comes next undoes it

    def __init__(
        self,
        features: int,
        num_tasks: int,
        out: int,
        *,
        columns: int | None = None,
        rows: int | None = None,
        bias: bool = True,
    ) -> None:
        if features < 1 or out < 1 or num_tasks < 2:
            raise ValueError(
                "features and out must be at least 1 and num_tasks at least 2, got features="
                f"{features}, out={out}, num_tasks={num_tasks}"
            )
        super().__init__(columns or features, rows or out, bias=bias)
        self.features, self.num_tasks, self.out = features, num_tasks, out

    def forward(self, h: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]  # two inputs
        """Return y, ``(..., out)``, with the dimensions of h and z broadcast.

        Args:
            h: ``(..., F)``.
            z: ``(..., K)``; an enumerated task comes as ``(K, 1, .., K)``, left of the plates.

        Raises:
            ValueError: where the last dimensions are not F and K.
        """
        for name, value, size in (("h", h, self.features), ("z", z, self.num_tasks)):
            if not value.ndim or value.shape[-1] != size:
                raise ValueError(
                    f"argument {name} has shape {tuple(value.shape)}, expected (..., {size}): "
                    "features first, then the task, its probabilities last"
                )
        return self.condition(h, z)

    def condition(self, h: Tensor, z: Tensor) -> Tensor:
        """Return y; each kind defines it."""
        raise NotImplementedError

    def layer(self, h: Tensor) -> Tensor:
        """Return W h + b."""
        # Flattened, so that rounding does not depend on how many dimensions there are.
        y = nn.functional.linear(h.reshape(-1, self.in_features), self.weight, self.bias)
        return y.reshape(*h.shape[:-1], self.out_features)

    def mixed(self, weights: Tensor, h: Tensor) -> Tensor:
        """Return sum_j w_j (W_j h + b_j), of weights ``(..., J)``; W holds all W_j, row by row."""
        parts = self.layer(h).unflatten(-1, (weights.shape[-1], self.out))
        return torch.einsum("...j,...jo->...o", weights, parts)


class Concat(Conditioner):
    """y = W [h, z] + b: the task beside the features, as in the paper."""

    def __init__(self, features: int, num_tasks: int, out: int) -> None:
        super().__init__(features, num_tasks, out, columns=features + num_tasks)

    def condition(self, h: Tensor, z: Tensor) -> Tensor:
        """Return W [h, z] + b."""
        return self.layer(concatenate(h, z))


class Additive(Conditioner):
    """y = W h + b + B z: each task moves the features.

    The functions are those of ``Concat``, and so is the parameter count (Dumoulin et al. 2018,
    Feature-wise transformations, Distill); the two differ in their first weights, which for B
    are of the size 1 / sqrt(K) and for concatenation 1 / sqrt(F + K).
    """

    def __init__(self, features: int, num_tasks: int, out: int) -> None:
        super().__init__(features, num_tasks, out)
        self.shift = nn.Linear(num_tasks, out, bias=False)

    def condition(self, h: Tensor, z: Tensor) -> Tensor:
        """Return W h + b + B z."""
        shift: Tensor = self.shift(z)
        return self.layer(h) + shift


class Gain(Conditioner):
    """y = (1 + G z) * (W h + b): each task scales the features, by gains that are learned."""

    def __init__(self, features: int, num_tasks: int, out: int) -> None:
        super().__init__(features, num_tasks, out)
        self.gain = nn.Linear(num_tasks, out, bias=False)

    def condition(self, h: Tensor, z: Tensor) -> Tensor:
        """Return (1 + G z) * (W h + b)."""
        gain: Tensor = self.gain(z)
        return (1 + gain) * self.layer(h)


class Mask(Conditioner):
    """y = (M z) * (W h + b), M fixed and random of 0 and 1: each task silences half the features.

    Context-dependent gating (Masse et al. 2018, Alleviating catastrophic forgetting using
    context-dependent gating and synaptic stabilization, PNAS 115; they silence 80 %). M is never
    learned and counts as no parameter. M z >= 0 passes through a ReLU, so that one layer of ReLUs
    leaves a network affine in the task.
    """

    def __init__(self, features: int, num_tasks: int, out: int) -> None:
        super().__init__(features, num_tasks, out)
        # M is the sign of frozen weights: what seeds the weights seeds it too.
        self.signs = nn.Linear(num_tasks, out, bias=False).requires_grad_(False)

    def condition(self, h: Tensor, z: Tensor) -> Tensor:
        """Return (M z) * (W h + b)."""
        masks = (self.signs.weight > 0).to(z.dtype)
        return (z @ masks.mT) * self.layer(h)


class FiLM(Conditioner):
    """y = (1 + G z) * W h + B z: each task scales and moves the features.

    Perez et al. 2018, FiLM: visual reasoning with a general conditioning layer, AAAI. B z does
    what a bias would.
    """

    def __init__(self, features: int, num_tasks: int, out: int) -> None:
        super().__init__(features, num_tasks, out, bias=False)
        self.modulation = nn.Linear(num_tasks, 2 * out, bias=False)

    def condition(self, h: Tensor, z: Tensor) -> Tensor:
        """Return (1 + G z) * W h + B z."""
        modulation: Tensor = self.modulation(z)
        gain, shift = modulation.chunk(2, -1)
        return (1 + gain) * self.layer(h) + shift


class Hypernetwork(Conditioner):
    """y = W(z) h + b(z): a small network makes the layer's weights from the task.

    W(z) = sum_j t_j(z) W_j and b(z) likewise, with t(z) = tanh(S z + s): two linear maps with a
    nonlinearity between them (Ha, Dai and Le 2017, HyperNetworks, ICLR). The only kind that is not
    affine in z.

    Args:
        features, num_tasks, out: see ``Conditioner``.
        units: of the small network, the rank of W over tasks.
    """

    affine = False

    def __init__(self, features: int, num_tasks: int, out: int, units: int = 4) -> None:
        if units < 1:
            raise ValueError(f"units must be at least 1, got {units}")
        super().__init__(features, num_tasks, out, rows=units * out)
        self.units = nn.Linear(num_tasks, units)

    def condition(self, h: Tensor, z: Tensor) -> Tensor:
        """Return sum_j t_j(z) (W_j h + b_j)."""
        return self.mixed(self.units(z).tanh(), h)


class AffineHead(Conditioner):
    """y = sum_k z_k (W_k h + b_k): a layer for each task, mixed.

    As the last layer of a Gaussian's mean it makes the mean affine in the task after all else, and
    then one gradient step is exact up to the curvature (``AffineHeadAutoencoder``).
    """

    def __init__(self, features: int, num_tasks: int, out: int) -> None:
        super().__init__(features, num_tasks, out, rows=num_tasks * out)

    def condition(self, h: Tensor, z: Tensor) -> Tensor:
        """Return sum_k z_k (W_k h + b_k)."""
        return self.mixed(z, h)


CONDITIONERS: dict[Conditioning, type[Conditioner]] = {
    "concat": Concat,
    "additive": Additive,
    "gain": Gain,
    "mask": Mask,
    "film": FiLM,
    "hypernetwork": Hypernetwork,
    "affine": AffineHead,
}


def make_conditioner(
    kind: Conditioning,
    features: int,
    num_tasks: int,
    out: int,
    generator: torch.Generator | None = None,
) -> Conditioner:
    """Make a linear layer conditioned on the task.

    Args:
        kind: "concat", "additive", "gain" (learned), "mask" (gains fixed and random), "film",
            "hypernetwork" or "affine" (a head for each task): see the class of each.
        features: F, the size of its features.
        num_tasks: K.
        out: the size of what it makes.
        generator: a seeded generator for the initial weights; torch's random state without one,
            as for a part of a network that draws its weights itself.

    Returns:
        A module that maps features ``(..., F)`` and tasks ``(..., K)`` to ``(..., out)``.

    Raises:
        ValueError: for an unknown kind, or sizes that make no layer.

    >>> film = make_conditioner("film", 5, 3, 8, torch.Generator().manual_seed(0))
    >>> film(torch.zeros(2, 5), torch.eye(3).unsqueeze(1)).shape  # every task for every element
    torch.Size([3, 2, 8])
    """
    check_choice("kind", kind, Conditioning)
    with weights_from(generator):
        conditioner = CONDITIONERS[kind](features, num_tasks, out)
    if generator is not None:
        initialise(conditioner, generator)
    return conditioner


def parameter_count(network: nn.Module) -> int:
    """Return how many numbers a network learns; what is fixed does not count.

    >>> [parameter_count(make_conditioner(kind, 5, 3, 8)) for kind in ("concat", "mask", "film")]
    [72, 48, 88]
    """
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def width_for(make: Callable[[int], nn.Module], budget: int) -> int:
    """Return the width at which a network comes closest to a budget of parameters.

    Networks of different conditioning are compared at equal parameter count; no width gives a
    count exactly, and the closest misses it by at most half of what one more unit costs.

    Args:
        make: the network of a given width, whose parameters grow with it. It is made on torch's
            "meta" device, without memory or random draws; leave out the generator.
        budget: how many parameters it should learn.

    Raises:
        ValueError: for a budget that no width comes to.

    >>> budget = parameter_count(make_conditioner("concat", 5, 3, 64))
    >>> width_for(lambda out: make_conditioner("hypernetwork", 5, 3, out), budget)
    23
    """

    def count(width: int) -> int:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return parameter_count(make(width))

    above = bisect_left(range(1, WIDEST), budget, key=count) + 1  # the narrowest not below it
    least = count(above)
    if above == WIDEST or (above == 1 and least > budget):
        raise ValueError(
            f"budget is {budget} parameters, but widths 1 to {WIDEST - 1} learn {count(1)} to "
            f"{count(WIDEST - 1)}: count those of a network of the size you want to match"
        )
    return above - 1 if above > 1 and budget - count(above - 1) < least - budget else above
