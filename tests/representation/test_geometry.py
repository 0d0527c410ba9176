import math

import pytest
import torch
from torch import Tensor

from gbi_pyro.representation import geometry

F64 = torch.float64


def with_spectrum(eigenvalues: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Activity whose covariance has exactly these eigenvalues."""
    units = len(eigenvalues)
    noise = torch.randn(samples, units, generator=generator, dtype=F64)
    left = torch.linalg.qr(noise - noise.mean(0))[0]
    turn = torch.linalg.qr(torch.randn(units, units, generator=generator, dtype=F64))[0]
    return (samples * eigenvalues).sqrt() * left @ turn + 3


@pytest.mark.parametrize("k", [5, 20, 64])
def test_isotropic_activity_fills_its_dimensions(k: int, generator: torch.Generator) -> None:
    values = torch.zeros(100, dtype=F64)
    values[:k] = 2.0
    found = geometry(with_spectrum(values, 400, generator))
    assert found.rank == pytest.approx(k, abs=1e-6)
    assert found.participation == pytest.approx(k, abs=1e-6)
    torch.testing.assert_close(found.eigenvalues[:k], values[:k])


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_the_slope_of_a_power_law(slope: float, generator: torch.Generator) -> None:
    values = torch.arange(1, 31, dtype=F64) ** -slope
    x = with_spectrum(values, 700, generator)
    found = geometry(x)
    assert found.slope == pytest.approx(slope, abs=1e-10)
    assert found.fit == pytest.approx(1, abs=1e-10)
    assert found.warnings == ()
    assert geometry(5 * x - 2).slope == pytest.approx(slope, abs=1e-10)


def test_few_samples_make_it_steep_and_are_warned_of(generator: torch.Generator) -> None:
    law = torch.arange(1, 51, dtype=F64) ** -0.5  # standard deviations: eigenvalues fall as 1 / i
    x = torch.randn(3000, 50, generator=generator, dtype=F64) * law
    assert geometry(x).warnings == ()
    assert geometry(x).slope == pytest.approx(1, abs=0.05)
    some = geometry(x[:400])
    assert some.slope > 1.05
    assert [w for w in some.warnings if "few samples make the slope too steep" in w]
    few = geometry(x[:100])
    assert few.slope > 1.2
    assert [w for w in few.warnings if "rank and slope are those of few samples" in w]


def test_a_spectrum_that_is_no_power_law_is_said_to_be_none(generator: torch.Generator) -> None:
    values = torch.tensor([1.0] * 10 + [1e-6] * 10, dtype=F64)
    assert any(
        "no power law" in w for w in geometry(with_spectrum(values, 500, generator)).warnings
    )


def test_tasks_have_shapes_of_their_own(generator: torch.Generator) -> None:
    """Two lines in different directions: one direction each, two in all."""
    t = torch.randn(200, generator=generator, dtype=F64)
    first, second = (torch.stack([t, 0 * t], -1), torch.stack([0 * t, t], -1))
    tasks = torch.tensor([1] * 200 + [0] * 200)
    found = geometry(torch.cat([first, second]), tasks)
    assert found.rank == pytest.approx(2, abs=1e-6)
    assert [g.rank for g in found.by_task] == pytest.approx([1, 1])
    assert math.isnan(found.by_task[0].slope)


def test_what_has_no_shape_is_named() -> None:
    with pytest.raises(ValueError, match="x should vary"):
        geometry(torch.full((9, 3), 0.7))
    with pytest.raises(ValueError, match=r"N >= 4 samples; got \(3, 3\)"):
        geometry(torch.eye(3))
