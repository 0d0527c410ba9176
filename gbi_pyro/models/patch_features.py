"""Features of images from random patches as filters: no labels, no training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gbi_pyro.models._validate import check_images
from gbi_pyro.models.saved import Rebuildable

AT_ONCE = 1  # images encoded at a time: the responses then stay in the cache
CONTRAST = (10 / 255) ** 2  # added to the variance of a patch, so that a flat one stays flat
SAMPLED = 50_000  # patches that the whitening is estimated from


class PatchFeatures(Rebuildable):
    r"""Responses of an image to whitened patches of images, pooled over regions.

    ::

        patch p -> (p - mean p) / sqrt(var p + c) -> whitening -> s_f = filter_f . p'
        phi(x) = mean over a region of max(0, s_f - t) and of max(0, -s_f - t)

    for each filter f and each of pool x pool regions; filters are random patches of training
    images, whitened and of norm 1 (Coates and Ng 2011, The importance of encoding versus training
    with sparse coding and vector quantization, ICML; Coates, Ng and Lee 2011, An analysis of
    single-layer networks in unsupervised feature learning, AISTATS). See ``fit``.

    Args:
        image_shape: ``(C, H, W)``.
        filters: what multiplies a patch, ``(F, C * patch * patch)``, with rows of sum 0.
        offsets: what is subtracted from each response, ``(F,)``.
        threshold: t, in standard deviations of a response.
        pool: regions along each side.
        mirror: take the mean of phi(x) and phi of x with left and right exchanged, for images
            whose classes do not change by that; it takes twice the time.
        root: take the square root of each number, whose distribution is then nearer to a Gaussian.

    >>> images = torch.rand(30, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> phi = PatchFeatures.fit(images, 5, torch.Generator().manual_seed(0), pool=2)
    >>> phi(images).shape, phi.num_features
    (torch.Size([30, 40]), 40)
    """

    filters: Tensor
    offsets: Tensor
    regions: Tensor

    def __init__(
        self,
        image_shape: tuple[int, ...],
        filters: Tensor,
        offsets: Tensor,
        *,
        threshold: float = 0.5,
        pool: int = 2,
        mirror: bool = False,
        root: bool = False,
    ) -> None:
        super().__init__()
        channels = _channels(image_shape)
        self.image_shape, self.threshold, self.pool = tuple(image_shape), threshold, pool
        self.mirror, self.root = mirror, root
        self.patch = round((filters.shape[-1] / channels) ** 0.5)
        positions = [size - self.patch + 1 for size in image_shape[1:]]
        if filters.ndim != 2 or self.patch**2 * channels != filters.shape[-1]:
            raise ValueError(
                f"filters have shape {tuple(filters.shape)}, expected (F, {channels} * patch^2) "
                f"for images of {channels} channels"
            )
        if offsets.shape != filters.shape[:1]:
            raise ValueError(
                f"offsets have shape {tuple(offsets.shape)}, expected ({len(filters)},), one a "
                "filter"
            )
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        if not 1 <= pool <= min(positions):
            raise ValueError(
                f"pool must be between 1 and {min(positions)}, the positions of a patch of "
                f"{self.patch} pixels along a side, got {pool}"
            )
        self.register_buffer("filters", filters.clone())
        self.register_buffer("offsets", offsets.clone())
        maps = torch.eye(positions[0] * positions[1], dtype=filters.dtype)
        maps = maps.reshape(-1, 1, *positions)
        self.register_buffer("regions", nn.functional.adaptive_avg_pool2d(maps, pool).flatten(1).mT)

    @classmethod
    def fit(
        cls,
        images: Tensor,
        num_filters: int,
        generator: torch.Generator,
        *,
        patch: int = 6,
        threshold: float = 0.5,
        pool: int = 2,
        mirror: bool = False,
        root: bool = False,
        ridge: float = 0.1,
    ) -> PatchFeatures:
        """Take filters from images.

        Args:
            images: ``(N, C, H, W)``, pixels from 0 to 1.
            num_filters: F.
            generator: draws the patches.
            patch: pixels along a side of a patch.
            threshold, pool, mirror, root: see the class.
            ridge: added to the eigenvalues of the patches' covariance before it is inverted.

        Raises:
            ValueError: for images of another shape, or numbers that do not fit them.
        """
        shape = tuple(images.shape[1:])
        _channels(shape)
        check_images(images, shape)
        if not 1 <= patch <= min(shape[1:]):
            raise ValueError(f"patch must be between 1 and {min(shape[1:])}, got {patch}")
        if not 1 <= num_filters <= SAMPLED:
            raise ValueError(f"num_filters must be between 1 and {SAMPLED}, got {num_filters}")
        if not ridge > 0:
            raise ValueError(f"ridge must be positive, got {ridge}")
        patches = _normalise(_random_patches(images, patch, generator).double())
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).mT.cov(correction=0))
        whitening = (vectors * (values.clamp(min=0) + ridge).rsqrt()) @ vectors.mT
        some = (patches[:num_filters] - mean) @ whitening
        # A response is filter . whitening . (p' - mean), and p' = (p - mean p) / std p.
        filters = nn.functional.normalize(some, dim=-1) @ whitening
        offsets = filters @ mean
        filters = filters - filters.mean(-1, keepdim=True)
        return cls(
            shape,
            filters.to(images),
            offsets.to(images),
            threshold=threshold,
            pool=pool,
            mirror=mirror,
            root=root,
        )

    @property
    def num_features(self) -> int:
        """D, the numbers of an image: 2 * F * pool^2."""
        return 2 * len(self.filters) * self.pool**2

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the features, ``(N, D)``, of images ``(N, C, H, W)``."""
        x = check_images(x, self.image_shape)
        out = x.new_zeros(len(x), self.pool**2, 2, len(self.filters))
        banks = self._banks()
        # The mean of max(0, s - t) is that of max(s, t) less t: a pass less over all responses.
        above, below = self.offsets + self.threshold, self.offsets - self.threshold
        for first in range(0, len(x), AT_ONCE):
            patches = self._patches(x[first : first + AT_ONCE])
            to = out[first : first + AT_ONCE]
            for filters, regions in banks:
                s = patches @ filters
                to[:, :, 0] += regions @ s.maximum(above)
                to[:, :, 1] -= regions @ s.minimum(below)
        if self.mirror:
            out /= 2
        out[:, :, 0] -= above
        out[:, :, 1] += below
        return (out.clamp_(min=0).sqrt_() if self.root else out).flatten(1)

    def _patches(self, x: Tensor) -> Tensor:
        """Return the patches at each position, scaled, ``(N, positions, C * patch * patch)``."""
        means = [nn.functional.avg_pool2d(a, self.patch, 1).mean(1).flatten(1) for a in (x, x * x)]
        scale = (means[1] - means[0].square()).clamp_(min=0).add_(CONTRAST).rsqrt_()
        return (nn.functional.unfold(x, self.patch) * scale.unsqueeze(1)).mT.contiguous()

    def _banks(self) -> list[tuple[Tensor, Tensor]]:
        """Return what multiplies patches, and what pools the responses over regions."""
        banks = [(self.filters.mT.contiguous(), self.regions)]
        if self.mirror:
            # The mirrored image has, at mirrored positions, the responses of mirrored filters.
            shape = (-1, self.image_shape[0], self.patch, self.patch)
            filters = self.filters.reshape(shape).flip(-1).flatten(1)
            positions = self.image_shape[-1] - self.patch + 1
            regions = self.regions.unflatten(-1, (-1, positions)).flip(-1).flatten(1)
            banks.append((filters.mT.contiguous(), regions.contiguous()))
        return banks


def _channels(image_shape: tuple[int, ...]) -> int:
    if len(image_shape) != 3:
        raise ValueError(
            f"image_shape is {tuple(image_shape)}, expected (channels, height, width): give grey "
            "images a channel, x.unsqueeze(1)"
        )
    return image_shape[0]


def _random_patches(images: Tensor, patch: int, generator: torch.Generator) -> Tensor:
    N, _, H, W = images.shape
    index, top, left = (
        torch.randint(high, (SAMPLED,), generator=generator)
        for high in (N, H - patch + 1, W - patch + 1)
    )
    side = torch.arange(patch)
    rows, columns = top[:, None, None] + side[:, None], left[:, None, None] + side
    return images[index[:, None, None], :, rows, columns].movedim(-1, 1).flatten(1)


def _normalise(patches: Tensor) -> Tensor:
    centred = patches - patches.mean(-1, keepdim=True)
    return centred * (patches.var(-1, correction=0, keepdim=True) + CONTRAST).rsqrt()
