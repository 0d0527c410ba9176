"""Gaussians over fixed features, affine in the task: the exact posterior in one pass."""

from __future__ import annotations

import math
from typing import Any, Self

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from gbi_pyro.models.image import ImageModel

SINGULAR = 1e-6  # a direction in which the means differ less, relative to the first, is none


class FeatureGaussian(ImageModel):
    r"""Fixed features of an image given its task: Gaussians of one covariance.

    ::

        x -> phi (fixed, no gradient) -> phi(x)     (image, D)
        z ----> m_j(z) = sum_k z_k m_kj             (image, J, D)

    p(phi(x) | z) = sum_j w_j(z) Normal(m_j(z), L L') with the weights w_j(z) = sum_k z_k w_kj: one
    covariance, and J prototypes for each task (mixture discriminant analysis, Hastie and
    Tibshirani 1996). ``fit_features`` has the closed form; log p(phi(x), z) may be maximised by
    gradient as well.

    Args:
        phi: from images ``(N,) + image_shape`` to features ``(N, D)``; ``nn.Identity()`` for
            features as they are. Nothing in it is trained.
        means: m, ``(K, D)``, or ``(K, J, D)``.
        scale_tril: L, the Cholesky factor of the covariance, ``(D, D)``.
        image_shape: the shape of one image; that of the features, ``(D,)``, without.
        weights: w, ``(K, J)``, positive with rows of sum 1; uniform without.
        log_prior: log probabilities of the tasks, ``(K,)``; uniform without.

    Raises:
        ValueError: for shapes that do not fit, or a matrix that is no Cholesky factor.

    >>> from gbi_pyro import OneStepGradient
    >>> means = torch.tensor([[0.0, 0.0], [2.0, 0.0], [9.0, 0.0]])
    >>> model = FeatureGaussian(nn.Identity(), means, torch.eye(2))
    >>> OneStepGradient()(model.exact, torch.tensor([[1.0, 5.0]])).probs().round(decimals=3)
    tensor([[0.5000, 0.5000, 0.0000]])
    """

    log_weights: Tensor

    def __init__(
        self,
        phi: nn.Module,
        means: Tensor,
        scale_tril: Tensor,
        *,
        image_shape: tuple[int, ...] | None = None,
        weights: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> None:
        if means.ndim == 2:
            means = means.unsqueeze(1)
        if means.ndim != 3 or not means.numel():
            raise ValueError(f"means have shape {tuple(means.shape)}, expected (K, D) or (K, J, D)")
        K, J, D = means.shape
        for name, value, shape in (
            ("scale_tril", scale_tril, (D, D)),
            ("weights", weights, (K, J)),
        ):
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, expected {shape} for means of {K} "
                    f"tasks, {J} prototypes and {D} features"
                )
        if bool(scale_tril.triu(1).any()) or not bool((scale_tril.diagonal() > 0).all()):
            raise ValueError(
                "scale_tril should be lower triangular with a positive diagonal, as "
                "torch.linalg.cholesky(covariance) is"
            )
        log_prior = means.new_zeros(K) if log_prior is None else log_prior
        super().__init__((D,) if image_shape is None else image_shape, K, log_prior)
        self.phi = phi.eval()
        self.means = nn.Parameter(means.detach().clone())
        self.log_diagonal = nn.Parameter(scale_tril.detach().diagonal().log())
        self.below = nn.Parameter(scale_tril.detach().tril(-1))
        equal = means.new_full((K, J), 1 / J)
        self.register_buffer("log_weights", (equal if weights is None else weights).log())

    def train(self, mode: bool = True) -> Self:
        """Change the mode of all but the features, which stay as they are in eval mode."""
        super().train(mode)
        self.phi.eval()
        return self

    @property
    def scale_tril(self) -> Tensor:
        """L, the Cholesky factor of the covariance, ``(D, D)``."""
        return self.below.tril(-1) + self.log_diagonal.exp().diag_embed()

    def forward(self, x: Tensor, z: Tensor | None = None) -> None:
        """Run the Pyro model.

        Args:
            x: images, ``(N,) + image_shape``.
            z: the tasks where they are known (training), one-hot or mixtures, ``(N, K)``.
        """
        self._run(x, z, within=False)

    def exact(self, x: Tensor, z: Tensor | None = None) -> None:
        """Run the same Pyro model, written so that its relaxed log joint is linear in the task.

        The factor "within" is sum_k z_k log p(phi(x) | k) - log p(phi(x) | z); with one prototype
        -(sum_k z_k |L^-1 m_k|^2 - |L^-1 m(z)|^2) / 2. It is zero at every corner, so nothing
        changes for tasks proper, and one gradient step is the exact posterior:
        ``OneStepGradient()(model.exact, x)``. Arguments as for ``forward``.
        """
        self._run(x, z, within=True)

    def _run(self, x: Tensor, z: Tensor | None, *, within: bool) -> None:
        white, means, log_scale = self._whitened(self.features(x))
        with pyro.plate("image", len(white), dim=-1):
            z = self.sample_task(z)
            # The logarithm of a weight of 0 has no gradient.
            weights = (z @ self.log_weights.exp()).clamp_min(torch.finfo(z.dtype).tiny)
            law = PrototypeNormal(
                torch.einsum("...nk,kjd->...njd", z, means), weights.log(), log_scale
            )
            if within:
                table = self._component_table(white, means, log_scale).logsumexp(-1)
                pyro.factor("within", (z * table).sum(-1) - law.log_prob(white))
            pyro.sample("x", law, obs=white)

    def features(self, x: Tensor) -> Tensor:
        """Return phi(x), ``(N, D)``, without a gradient."""
        with torch.no_grad():
            found: Tensor = self.phi(x)
        D = self.means.shape[-1]
        if found.ndim != 2 or found.shape[-1] != D or not found.is_floating_point():
            raise ValueError(
                f"phi(x) has shape {tuple(found.shape)} and dtype {found.dtype}, expected "
                f"floating numbers (number of images, {D})"
            )
        return found

    def component_table(self, features: Tensor) -> Tensor:
        """Return log w_kj + log Normal(phi; m_kj, L L'), ``(N, K, J)``, of features ``(N, D)``."""
        return self._component_table(*self._whitened(features))

    def log_likelihoods(self, features: Tensor) -> Tensor:
        """Return log p(phi | z = k), ``(N, K)``, of features ``(N, D)``."""
        return self.component_table(features).logsumexp(-1)

    def squared_distances(self, features: Tensor) -> Tensor:
        """Return Mahalanobis distances |L^-1 (phi - m_kj)|^2, ``(N, K, J)``, of ``(N, D)``."""
        white, means, _ = self._whitened(features)
        return _squared_distances(white, means)

    def _whitened(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return L^-1 phi, L^-1 m around a common point, and log |L|."""
        L, centre = self.scale_tril, self.means.detach().mean((0, 1))
        rows = torch.cat([features - centre, self.means.flatten(0, 1) - centre])
        white = torch.linalg.solve_triangular(L, rows.mT, upper=False).mT
        white, means = white.split([len(features), len(rows) - len(features)])
        return white, means.reshape(self.means.shape), self.log_diagonal.sum()

    def _component_table(self, white: Tensor, means: Tensor, log_scale: Tensor) -> Tensor:
        constant = log_scale + 0.5 * white.shape[-1] * math.log(2 * math.pi)
        return self.log_weights - 0.5 * _squared_distances(white, means) - constant

    @torch.no_grad()
    def discriminant(self) -> FeatureGaussian:
        r"""Return the same posterior from the few linear functions of phi that tell tasks apart.

        With U S V' the singular value decomposition of L^-1 (m - m_0), the discriminant coordinates
        t = U' L^-1 (phi - m_0) are sufficient for the task, for

        p(phi | z) = p(t | z) p(rest),  t | z ~ Normal(V S (z), I),  rest ~ Normal(0, I).

        At most K J - 1 numbers, in place of the D^2 that whitening all features takes. The rest
        has its place in the evidence alone: for that keep the full model.
        """
        K, J, D = self.means.shape
        L, means = self.scale_tril.double(), self.means.flatten(0, 1).double()
        centre = means.mean(0)
        white = torch.linalg.solve_triangular(L, (means - centre).mT, upper=False)
        U, S, Vh = torch.linalg.svd(white, full_matrices=False)
        kept = max(int((SINGULAR * S[0] < S).sum()), 1)
        U, coordinates = U[:, :kept], Vh[:kept].mT * S[:kept]
        linear = torch.nn.utils.skip_init(nn.Linear, D, kept, dtype=self.means.dtype)
        weight = torch.linalg.solve_triangular(L.mT, U, upper=True).mT
        linear.weight.copy_(weight)
        linear.bias.copy_(-(weight @ centre))
        return FeatureGaussian(
            nn.Sequential(self.phi, linear.requires_grad_(False)),
            coordinates.reshape(K, J, kept).to(self.means),
            torch.eye(kept, dtype=self.means.dtype),
            image_shape=self.image_shape,
            weights=self.log_weights.exp(),
            log_prior=self.log_prior,
        )


class PrototypeNormal(TorchDistribution):
    """A mixture of Normal(mean_j, I) over whitened vectors, its density that of the vectors before.

    Args:
        means: ``batch_shape + (J, D)``.
        log_weights: of the components, ``batch_shape + (J,)``.
        log_scale: log |det| of the linear map from whitened vectors, a scalar.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, means: Tensor, log_weights: Tensor, log_scale: Tensor) -> None:
        self.means, self.log_weights, self.log_scale = means, log_weights, log_scale
        super().__init__(means.shape[:-2], means.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of ``value``, ``(..., D)``."""
        squares = (value.unsqueeze(-2) - self.means).square().sum(-1)
        constant = self.log_scale + 0.5 * value.shape[-1] * math.log(2 * math.pi)
        return (self.log_weights - 0.5 * squares).logsumexp(-1) - constant

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw whitened vectors, ``sample_shape + batch_shape + (D,)``."""
        shape = tuple(sample_shape)
        chosen = torch.distributions.Categorical(logits=self.log_weights).sample(shape)
        index = chosen[..., None, None].expand(*chosen.shape, 1, self.means.shape[-1])
        mean = self.means.expand(*shape, *self.means.shape).gather(-2, index).squeeze(-2)
        return mean + torch.randn_like(mean)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PrototypeNormal:
        """Return the same distribution for a larger batch."""
        means = self.means.expand(*batch_shape, *self.means.shape[-2:])
        return PrototypeNormal(means, self.log_weights.expand(means.shape[:-1]), self.log_scale)


def _squared_distances(white: Tensor, means: Tensor) -> Tensor:
    products = torch.einsum("nd,kjd->nkj", white, means)
    squares = white.square().sum(-1)[:, None, None] + means.square().sum(-1)
    return squares - 2 * products
