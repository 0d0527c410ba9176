"""Second derivatives of the log joint at a point, and the log joint up to second order about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gbi_pyro.logjoint import LogJoint, RelaxedModel


class Block(NamedTuple):
    """A block of the Hessian C, between a task site i and a task site j.

    Attributes:
        values: (e_k - q_i)' C_ij (e_m - q_j), ``batch_shape + (K_i, K_j)``, float64.
        size: the largest product that an element's values are sums of, ``batch_shape``.
    """

    values: Tensor
    size: Tensor


@torch.enable_grad()
def hessian_row(
    run: RelaxedModel, joint: LogJoint, gradient: Tensor, name: str, columns: Sequence[str]
) -> dict[str, Block]:
    """Return the Hessian blocks of one task site with others, by Hessian-vector products.

    The K directions e_k - q span K - 1 dimensions, so that K - 1 products, with e_k - e_K, serve.
    Elements are independent: the product with one direction in every element at once is each
    element's own.

    Args:
        run: the model, in which passes are counted.
        joint: its run at the point q.
        gradient: dl/dq of the site, with the graph it was made by.
        name: the site.
        columns: the sites to differentiate by.

    Returns:
        A block for each column that the gradient depends on; the others are zero.
    """
    values, q = [joint.values[c] for c in columns], joint.values[name].detach()
    rows: dict[str, list[Tensor | None]] = {c: [] for c in columns}
    for k in range(joint.sites[name].num_tasks - 1):
        slope = (gradient[..., k] - gradient[..., -1]).sum()
        found: Sequence[Tensor | None] = [None] * len(columns)
        if slope.requires_grad:  # else l is affine in q
            found = torch.autograd.grad(slope, values, retain_graph=True, allow_unused=True)
            run.count(backward=1)
        for column, product in zip(columns, found, strict=True):
            rows[column].append(product)
    blocks = {}
    for column, products in rows.items():
        if any(product is not None for product in products):
            point = joint.values[column].detach()
            zero = torch.zeros_like(point)
            raw = torch.stack([*(zero if p is None else p for p in products), zero], -2).double()
            by_task = raw - (q.unsqueeze(-1) * raw).sum(-2, keepdim=True)
            block = by_task - (by_task * point.unsqueeze(-2)).sum(-1, keepdim=True)
            blocks[column] = Block(block, raw.abs().amax((-2, -1)))
    return blocks


class Expansion(NamedTuple):
    """The log joint up to second order: sum_i unary_i[z_i] + sum_{i, j} pairwise_ij[z_i, z_j] + c.

    Attributes:
        unary: by task site, ``batch_shape + (K,)``, float64.
        pairwise: by pair of sites that interact, ``batch_shape + (K_i, K_j)``, float64. Blocks that
            are zero in all elements, up to rounding, are left out.
    """

    unary: dict[str, Tensor]
    pairwise: dict[tuple[str, str], Tensor]


@torch.enable_grad()
def expand(run: RelaxedModel, joint: LogJoint) -> Expansion:
    """Return the log joint up to second order about the point of a run, as a function of corners.

    Args:
        run: the model, in which passes are counted.
        joint: its run at the point, with ``order=2``.

    Raises:
        TaskSiteError: see ``RelaxedModel.likelihood_gradient``.
    """
    names = list(joint.sites)
    unary: dict[str, Tensor] = {}
    blocks: dict[tuple[str, str], Block] = {}
    first = next(iter(joint.values.values()))
    sizes = [first.new_zeros(())]
    gradients = run.likelihood_gradient(joint, create_graph=True)
    for i, (name, likelihood) in enumerate(gradients.items()):
        log_prior = joint.sites[name].log_prior
        forbidden = log_prior.isneginf()
        gradient = likelihood + log_prior.masked_fill(forbidden, 0.0)
        # Where a prior depends on another task, that task comes first and the gradient of the
        # later site alone has all of it: each block is read from the row of its later site.
        row = hessian_row(run, joint, gradient, name, names[: i + 1])
        sizes += [block.size for block in row.values()]
        score = gradient.detach().double()
        if name in row:
            score = score + 0.5 * row.pop(name).values.diagonal(dim1=-2, dim2=-1)
        unary[name] = score.masked_fill(forbidden, -torch.inf)
        blocks |= {(other, name): block for other, block in row.items()}
    eps = torch.finfo(first.dtype).eps
    rounding = 16 * eps * torch.stack(torch.broadcast_tensors(*sizes)).amax(0)[..., None, None]
    pairwise = {
        pair: block.values.mT
        for pair, block in blocks.items()
        if bool((block.values.abs() > rounding).any())
    }
    return Expansion(unary, pairwise)
