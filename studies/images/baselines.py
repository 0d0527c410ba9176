"""Two baselines that infer the task from a network's gradients, as defined here (EBI, NBI).

The paper compares with both and defines neither in what is known of it, so these are the
definitions used: EBI after Wortsman et al. 2020 (Supermasks in superposition), NBI after the
gradient norms under pseudo-labels of Roy et al. 2023.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gbi_pyro.logjoint import Passes, RelaxedModel
from gbi_pyro.models.image import ConditionedAutoencoder


def entropy_based(model: ConditionedAutoencoder, x: Tensor) -> tuple[Tensor, Passes]:
    """Infer the task that would lower the output's entropy fastest (EBI).

    log q = log_softmax(-dH/dz at u), with H the entropy of the image generated at maximum entropy,
    its pixels taken as the probabilities of Bernoulli variables. The data enter through the latent
    alone: the generated image is not compared with the one seen.

    Returns:
        Log probabilities, ``(N, K)``, and the passes spent.
    """
    z = model.uniform(len(x)).requires_grad_()
    with torch.enable_grad():
        pixels = model.generate(z, like=x).flatten(1).clamp(1e-6, 1 - 1e-6)
        entropy = torch.special.entr(pixels) + torch.special.entr(1 - pixels)
        (slope,) = torch.autograd.grad(entropy.sum(), z)
    return (-slope).log_softmax(-1), Passes(forward=1, backward=1)


def norm_based(model: ConditionedAutoencoder, x: Tensor) -> tuple[Tensor, Passes]:
    """Infer the task under which the gradient has the smallest norm (NBI).

    log q_k = log_softmax_k(-|d log p(x | z) / dz at e_k|), with each task as a pseudo-label.

    Returns:
        Log probabilities, ``(N, K)``, and the passes spent.
    """
    run = RelaxedModel(model, (x,))
    norms = []
    for k in range(model.num_tasks):
        joint = run.log_joint(lambda site, k=k: site.corner(k), order=1)  # type: ignore[misc]
        run.count(forward=1)
        norms.append(run.likelihood_gradient(joint)["z"].norm(dim=-1))
    return (-torch.stack(norms, -1)).log_softmax(-1), run.passes
