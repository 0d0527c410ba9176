import pytest
import torch
from torch import Tensor, nn

from gbi_pyro.models import PatchFeatures
from gbi_pyro.models.patch_features import CONTRAST

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 7, channels: int = 3, size: int = 12) -> Tensor:
    return torch.rand(n, channels, size, size, generator=seeded(1), dtype=F64)


def fitted(x: Tensor, filters: int = 5, seed: int = 0, **options: float) -> PatchFeatures:
    return PatchFeatures.fit(x, filters, seeded(seed), patch=4, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "pool"), [(1, 3), (3, 2)])
def test_features_are_those_of_patches_one_by_one(channels: int, pool: int) -> None:
    x = images(3, channels)
    phi = fitted(x, pool=pool)
    maps = torch.zeros(3, 2, 5, 9, 9, dtype=F64)
    for i in range(9):
        for j in range(9):
            patch = x[:, :, i : i + 4, j : j + 4].flatten(1)
            centred = patch - patch.mean(-1, keepdim=True)
            scale = (patch.var(-1, correction=0, keepdim=True) + CONTRAST).sqrt()
            s = (centred / scale) @ phi.filters.mT - phi.offsets
            maps[:, 0, :, i, j] = (s - phi.threshold).clamp(min=0)
            maps[:, 1, :, i, j] = (-s - phi.threshold).clamp(min=0)
    pooled = nn.functional.adaptive_avg_pool2d(maps.flatten(1, 2), pool)
    expected = pooled.reshape(3, 10, pool**2).mT.flatten(1)
    torch.testing.assert_close(phi(x), expected, rtol=0, atol=1e-12)


def test_responses_to_random_patches_are_near_white() -> None:
    x = images(400, 1)
    phi = PatchFeatures.fit(x, 40, seeded(), patch=4, ridge=1e-6)
    responses = (phi._patches(x) @ phi.filters.mT - phi.offsets).flatten(0, 1)
    assert responses.mean(0).abs().max() < 0.05
    # 15 directions are whitened (a patch has mean 0), and each filter has norm 1 among them.
    torch.testing.assert_close(responses.var(0), torch.ones(40, dtype=F64), rtol=0, atol=0.1)


def test_features_do_not_see_brightness_and_contrast_hardly() -> None:
    x = images()
    phi = fitted(x)
    torch.testing.assert_close(phi(x + 0.3), phi(x), rtol=0, atol=1e-9)
    near = (phi(3 * x) - phi(x)).abs().max() / phi(x).max()
    assert near < 0.02  # the constant added to the variance


def test_mirrored_features_do_not_see_left_and_right() -> None:
    x = images()
    phi = fitted(x, mirror=True)
    torch.testing.assert_close(phi(x.flip(-1)), phi(x))
    plain = fitted(x)
    torch.testing.assert_close(phi(x), (plain(x) + plain(x.flip(-1))) / 2)
    assert not torch.allclose(plain(x.flip(-1)), plain(x))


def test_root_of_the_pooled_numbers() -> None:
    x = images()
    torch.testing.assert_close(fitted(x, root=True)(x).square(), fitted(x)(x))


def test_each_image_for_itself_and_any_number_of_them() -> None:
    x = images()
    phi = fitted(x)
    torch.testing.assert_close(phi(x), torch.cat([phi(x[i : i + 1]) for i in range(7)]))
    assert phi(x[:0]).shape == (0, phi.num_features)


def test_a_generator_decides_and_torch_state_stays() -> None:
    before, x = torch.get_rng_state(), images()
    assert torch.equal(fitted(x).filters, fitted(x).filters)
    assert not torch.equal(fitted(x).filters, fitted(x, seed=1).filters)
    assert torch.equal(torch.get_rng_state(), before)


def test_float32_images_make_float32_features() -> None:
    x = images()
    phi = fitted(x)
    torch.testing.assert_close(phi.float()(x.float()), fitted(x)(x).float(), rtol=0, atol=1e-5)


def test_wrong_arguments() -> None:
    x = images()
    with pytest.raises(ValueError, match="expected \\(channels, height, width\\)"):
        PatchFeatures.fit(x[:, 0], 5, seeded())
    with pytest.raises(ValueError, match="patch must be between 1 and 12, got 13"):
        PatchFeatures.fit(x, 5, seeded(), patch=13)
    with pytest.raises(ValueError, match="num_filters"):
        PatchFeatures.fit(x, 0, seeded())
    with pytest.raises(ValueError, match="ridge must be positive"):
        PatchFeatures.fit(x, 5, seeded(), ridge=0.0)
    with pytest.raises(ValueError, match="threshold must be at least 0"):
        PatchFeatures.fit(x, 5, seeded(), threshold=-1.0)
    with pytest.raises(ValueError, match="pool must be between 1 and 7"):
        PatchFeatures.fit(x, 5, seeded(), pool=8)
    with pytest.raises(ValueError, match="filters have shape"):
        PatchFeatures((3, 12, 12), torch.zeros(5, 47), torch.zeros(5))
    with pytest.raises(ValueError, match="offsets have shape"):
        PatchFeatures((3, 12, 12), torch.zeros(5, 48), torch.zeros(4))
    with pytest.raises(ValueError, match="images have shape"):
        fitted(x)(x[:, :1])
