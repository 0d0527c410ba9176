"""Out-of-distribution scores: the larger, the less likely an element is in distribution.

Each score is a function of the tensors it needs and returns one number per element. Only the order
of the numbers matters to ``auroc``, so scores have no common unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from gbi_pyro.metrics._validate import check_temperature, checked_rows
from gbi_pyro.metrics.agreement import kl
from gbi_pyro.posterior import entropy

ORTHONORMAL_TOLERANCE = 1e-3  # of a basis in single precision


def maximum_score(log_probs: Tensor | ArrayLike) -> Tensor:
    """Return minus the largest log probability of a task.

    score = -max_k log q_k, from 0 to log K. Where the largest probability is near 1 it is computed
    from the others, so that elements which single precision calls equally sure keep their order.

    Args:
        log_probs: normalised log probabilities, (..., K).

    Returns:
        Scores, (...), float64.

    Raises:
        ValueError: for rows that are not log probabilities.

    Example:
        >>> maximum_score(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log())
        tensor([0.1054, 0.6931], dtype=torch.float64)
    """
    log_q = checked_rows(log_probs)
    top, best = log_q.max(-1, keepdim=True)
    others = log_q.exp().scatter(-1, best, 0.0).sum(-1)
    return torch.where(others < 0.5, -torch.log1p(-others), -top.squeeze(-1))


def entropy_score(log_probs: Tensor | ArrayLike) -> Tensor:
    """Return the entropy H(q) in nats.

    Args:
        log_probs: normalised log probabilities, (..., K).

    Returns:
        Scores, (...), from 0 to log K, float64.

    Raises:
        ValueError: for rows that are not log probabilities.

    Example:
        >>> entropy_score(torch.tensor([0.5, 0.5]).log())
        tensor(0.6931, dtype=torch.float64)
    """
    return entropy(checked_rows(log_probs))


def gradient_norm_score(
    gradient: Tensor | ArrayLike, log_prior: Tensor | ArrayLike | None = None
) -> Tensor:
    """Return minus the length of the log likelihood gradient at maximum entropy.

    score = -|P (g - log pi)| with P the projection onto the simplex, which takes the mean over
    tasks away. This gradient is what tells tasks apart: an element with a small one speaks for no
    task and is out of distribution (the sign of Huang et al. 2021, arXiv:2110.00218). A gradient
    that grows with the misfit instead, as that of a reconstruction loss, takes the other sign.

    Args:
        gradient: g = dl/dq at maximum entropy, log prior included, (..., K). A constant per element
            does no harm, so the log probabilities of ``OneStepGradient()`` will do as they are.
        log_prior: log pi, (K,) or (..., K); uniform without it, or if ``gradient`` is without it.

    Returns:
        Scores, (...), at most 0, float64.

    Raises:
        ValueError: for a prior of other tasks, or infinite numbers.

    Example:
        >>> gradient_norm_score([[3.0, -3.0], [0.1, 0.1]])
        tensor([-4.2426, -0.0000], dtype=torch.float64)
    """
    g = _tensor("gradient", gradient)
    if log_prior is not None:
        prior = _tensor("log_prior", log_prior).to(g.device)
        if prior.shape not in (g.shape, g.shape[-1:]):
            raise ValueError(
                f"log_prior should be {tuple(g.shape[-1:])} or {tuple(g.shape)}, as gradient has "
                f"{g.shape[-1]} tasks; got {tuple(prior.shape)}"
            )
        g = g - prior
    if not bool(g.isfinite().all()):
        raise ValueError(
            "gradient - log_prior should be finite; got infinite numbers or NaN (a forbidden "
            "task?): leave forbidden tasks out"
        )
    length: Tensor = (g - g.mean(-1, keepdim=True)).norm(dim=-1)
    return -length


def cosine_score(residual: Tensor | ArrayLike, directions: Tensor | ArrayLike) -> Tensor:
    """Return minus the largest cosine between the residual and the direction of a task.

    score = -max_k cos(r, d_k), from -1 to 1. What the output at maximum entropy leaves unexplained,
    r, points along the change d_k that some task makes, if the element is of a known task. The sign
    counts: a residual against a direction does not speak for its task. A zero vector has cosine 0.

    Args:
        residual: x - m(u), usually in code space, (..., r).
        directions: m(e_k) - m(u), (..., K, r), or (K, r) for all elements.

    Returns:
        Scores, (...), float64.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> cosine_score([[2.0, 0.0], [-1.0, -1.0]], [[1.0, 0.0], [0.0, 1.0]])
        tensor([-1.0000,  0.7071], dtype=torch.float64)
    """
    r = _tensor("residual", residual)
    d = _tensor("directions", directions).to(r.device)
    per_element = (d.dim() == r.dim() + 1) and d.shape[:-2] == r.shape[:-1]
    if not (per_element or d.dim() == 2) or d.shape[-1] != r.shape[-1] or d.shape[-2] == 0:
        expected = (*tuple(r.shape[:-1]), "K", r.shape[-1])
        raise ValueError(
            f"directions should be {_shape(expected)} or {_shape(expected[-2:])}, as residual is "
            f"{_shape(r.shape)}; got {_shape(d.shape)}: tasks second to last, space last"
        )
    return -(_unit(d) @ _unit(r).unsqueeze(-1)).squeeze(-1).amax(-1)


def log_likelihood_score(log_likelihood: Tensor | ArrayLike) -> Tensor:
    """Return minus the log likelihood, at maximum entropy or at the chosen task.

    Args:
        log_likelihood: log p(x | q), (...).

    Returns:
        Scores, (...), float64.

    Example:
        >>> log_likelihood_score([-10.0, -20.0])
        tensor([10., 20.], dtype=torch.float64)
    """
    return -torch.as_tensor(log_likelihood).detach().double()


def mahalanobis_score(
    squared_distances: Tensor | ArrayLike, background: Tensor | ArrayLike | None = None
) -> Tensor:
    """Return the squared Mahalanobis distance to the nearest task, alone or relative.

    score = min_k d_k - d_0, with d_k the distance to task k and d_0 that to one Gaussian of all
    tasks together, 0 without it (Lee et al. 2018, arXiv:1807.03888; relative: Ren et al. 2021,
    arXiv:2106.09022). Directions in which all elements vary alike cancel in the relative score,
    which then sees near outliers; far outliers are far from both.

    Args:
        squared_distances: d_k, (..., K).
        background: d_0, (...).

    Returns:
        Scores, (...), at least 0 without ``background``, float64.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> mahalanobis_score([[1.0, 9.0], [25.0, 36.0]], background=[4.0, 30.0])
        tensor([-3., -5.], dtype=torch.float64)
    """
    nearest = _tensor("squared_distances", squared_distances).amin(-1)
    if background is None:
        return nearest
    other = torch.as_tensor(background).detach().double().to(nearest.device)
    if other.shape != nearest.shape:
        raise ValueError(
            f"background should be {_shape(nearest.shape)}, one distance per element; got "
            f"{_shape(other.shape)}"
        )
    return nearest - other


def combined_score(
    scores: Sequence[Tensor | ArrayLike], reference: Sequence[Tensor | ArrayLike]
) -> Tensor:
    """Combine scores by how rare each is among elements in distribution.

    score = - sum_i log p_i, p_i = (1 + number of reference scores of kind i that are at least s_i)
    / (1 + n): Fisher's method (Fisher 1932, Statistical methods for research workers), with the
    p-values of the reference. Monotone changes of a score change nothing.

    Args:
        scores: (...) each, larger for more outlying.
        reference: the same kinds of scores of n elements in distribution, (n,) each, which no
            threshold and no result is computed from: validation elements.

    Returns:
        Scores, (...), at least 0, float64.

    Raises:
        ValueError: for other kinds of reference scores than of scores, none, or NaN.

    Example:
        >>> combined_score([[5.0, 0.0]], [[1.0, 2.0, 3.0]]).exp()
        tensor([4., 1.], dtype=torch.float64)
    """
    if not scores or len(scores) != len(reference):
        raise ValueError(
            f"scores and reference should be as many, one or more; got {len(scores)} and "
            f"{len(reference)}"
        )
    total: Tensor | None = None
    for given, known in zip(scores, reference, strict=True):
        s, r = (torch.as_tensor(v).detach().double().cpu() for v in (given, known))
        if r.dim() != 1 or not len(r) or bool(s.isnan().any() | r.isnan().any()):
            raise ValueError(
                f"reference scores should be (n,) and no score NaN; got {_shape(r.shape)}"
            )
        at_least = len(r) - torch.searchsorted(r.sort().values, s.contiguous())
        surprise = math.log1p(len(r)) - at_least.double().log1p()
        total = surprise if total is None else total + surprise
    assert total is not None
    return total


def likelihood_regret(before: Tensor | ArrayLike, after: Tensor | ArrayLike) -> Tensor:
    """Return the log likelihood gained by optimising for this one element.

    log p(x | optimised) - log p(x | as inferred) (Xiao et al. 2020, arXiv:2003.02977), at least 0
    if the optimiser did its work.

    Args:
        before: log likelihood as the trained model infers it, (...).
        after: log likelihood after optimising, (...).

    Returns:
        Scores, (...), float64.

    Raises:
        ValueError: for unequal shapes.

    Example:
        >>> likelihood_regret([-10.0, -20.0], [-9.0, -12.0])
        tensor([1., 8.], dtype=torch.float64)
    """
    first, last = (torch.as_tensor(v).detach().double() for v in (before, after))
    if first.shape != last.shape:
        raise ValueError(
            f"after should have the shape of before, {_shape(first.shape)}; got "
            f"{_shape(last.shape)}: one log likelihood per element each"
        )
    return last - first


def softmax_score(logits: Tensor | ArrayLike) -> Tensor:
    """Return minus the largest log probability of a classifier's softmax.

    The baseline of Hendrycks and Gimpel 2017, arXiv:1610.02136.

    Args:
        logits: a classifier's, before the softmax, (..., K).

    Returns:
        Scores, (...), from 0 to log K, float64.

    Raises:
        ValueError: for no tasks or NaN.

    Example:
        >>> softmax_score([[0.0, 0.0], [100.0, 0.0]])
        tensor([6.9315e-01, 3.7201e-44], dtype=torch.float64)
    """
    return maximum_score(_tensor("logits", logits).log_softmax(-1))


def max_logit_score(logits: Tensor | ArrayLike) -> Tensor:
    """Return minus the largest logit (Hendrycks et al. 2022, arXiv:1911.11132).

    Args:
        logits: before the softmax, or the gradient at maximum entropy, (..., K).

    Returns:
        Scores, (...), float64.

    Raises:
        ValueError: for no tasks.

    Example:
        >>> max_logit_score([[1.0, 5.0], [0.0, 2.0]])
        tensor([-5., -2.], dtype=torch.float64)
    """
    return -_tensor("logits", logits).amax(-1)


def energy_score(logits: Tensor | ArrayLike, temperature: float = 1.0) -> Tensor:
    """Return the free energy, - T log sum_k exp(logit_k / T) (Liu et al. 2020, arXiv:2010.03759).

    Args:
        logits: before the softmax, (..., K).
        temperature: T, positive and finite.

    Returns:
        Scores, (...), float64.

    Raises:
        ValueError: for no tasks or an invalid temperature.

    Example:
        >>> energy_score([[0.0, 0.0], [5.0, 5.0]])
        tensor([-0.6931, -5.6931], dtype=torch.float64)
    """
    check_temperature(temperature)
    return -temperature * (_tensor("logits", logits) / temperature).logsumexp(-1)


def ensemble_score(
    log_probs: Tensor | ArrayLike, kind: Literal["entropy", "mutual information"] = "entropy"
) -> Tensor:
    """Return the entropy of an ensemble, or the disagreement of its members.

    With the mean q of the members' q_m: the entropy H(q) (Lakshminarayanan et al. 2017,
    arXiv:1612.01474), or the part of it that is disagreement, the mutual information of member and
    task H(q) - mean_m H(q_m) = mean_m KL(q_m || q).

    Args:
        log_probs: normalised log probabilities of each of M members, (M, ..., K).
        kind: "entropy" or "mutual information".

    Returns:
        Scores, (...), in nats, float64.

    Raises:
        ValueError: for an unknown kind, a missing dimension of members, or rows that are not log
            probabilities.

    Example:
        >>> log_probs = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.1, 0.9], [0.5, 0.5]]]).log()
        >>> ensemble_score(log_probs)
        tensor([0.6931, 0.6931], dtype=torch.float64)
        >>> ensemble_score(log_probs, "mutual information").round(decimals=4)
        tensor([0.3681, 0.0000], dtype=torch.float64)
    """
    members = checked_rows(log_probs)
    if members.dim() < 2 or len(members) == 0:
        raise ValueError(
            f"log_probs should be (M, ..., K), members first; got {_shape(members.shape)}: "
            "torch.stack the members' log probabilities"
        )
    mean = (members.logsumexp(0) - math.log(len(members))).log_softmax(-1)
    if kind == "entropy":
        return entropy(mean)
    if kind == "mutual information":
        return kl(members, mean.expand_as(members)).mean(0).to(mean.device)
    raise ValueError(f"kind should be 'entropy' or 'mutual information'; got {kind!r}")


def pca_residual_score(
    x: Tensor | ArrayLike, mean: Tensor | ArrayLike, basis: Tensor | ArrayLike
) -> Tensor:
    """Return the squared norm that principal components leave over: a baseline without a network.

    |x - mean|^2 - |basis' (x - mean)|^2. A score that sees this residual must beat it to prove
    anything of the network.

    Args:
        x: data, flattened, (..., D).
        mean: of the training data, (D,).
        basis: orthonormal columns, (D, r); the transpose of scikit-learn's ``components_``.

    Returns:
        Scores, (...), at least 0, in units of x squared, float64.

    Raises:
        ValueError: for shapes that do not fit, or columns that are not orthonormal.

    Example:
        >>> pca_residual_score([[3.0, 4.0]], [0.0, 0.0], [[1.0], [0.0]])
        tensor([16.], dtype=torch.float64)
    """
    data = _tensor("x", x)
    centre, columns = (_tensor(n, v).to(data.device) for n, v in (("mean", mean), ("basis", basis)))
    size = data.shape[-1]
    if centre.shape != (size,) or columns.dim() != 2 or len(columns) != size:
        raise ValueError(
            f"mean should be ({size},) and basis ({size}, r), as x is {_shape(data.shape)}; got "
            f"{_shape(centre.shape)} and {_shape(columns.shape)}: flatten the images, give "
            "components as columns"
        )
    gram = columns.T @ columns
    error = (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max().item()
    if not error <= ORTHONORMAL_TOLERANCE:
        raise ValueError(
            f"basis should have orthonormal columns; basis' basis is off the identity by "
            f"{error:.3g}: take torch.linalg.qr(basis).Q, and components as columns"
        )
    centred = data - centre
    return (centred - (centred @ columns) @ columns.T).square().sum(-1)


def _tensor(name: str, value: Tensor | ArrayLike) -> Tensor:
    tensor = torch.as_tensor(value).detach().double()
    if tensor.dim() == 0 or tensor.shape[-1] == 0:
        raise ValueError(f"{name} should have a last dimension; got {_shape(tensor.shape)}")
    return tensor


def _shape(sizes: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors of length 1 or 0; scaled first, so that no square under- or overflows."""
    tiny = torch.finfo(vectors.dtype).tiny
    scaled = vectors / vectors.abs().amax(-1, keepdim=True).clamp_min(tiny)
    length: Tensor = scaled.norm(dim=-1, keepdim=True)
    return scaled / length.clamp_min(tiny)
