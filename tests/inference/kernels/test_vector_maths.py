"""The vectorised exponential and logarithm against NumPy's."""

import numpy as np

from gbi_pyro.inference._kernels.vector_maths import exp_into, log_in_place


def units_apart(found: np.ndarray, want: np.ndarray) -> float:
    """Return the largest difference in units in the last place."""
    return float(np.max(np.abs(found - want) / np.spacing(np.abs(want))))


def test_the_exponential_is_right_within_two_units() -> None:
    x = np.concatenate([np.linspace(-707.9, 708.0, 200_001), np.linspace(-1e-8, 1e-8, 101)])
    found = np.empty_like(x)
    exp_into(x, found)
    assert units_apart(found, np.exp(x)) <= 2


def test_exponentials_too_small_for_normal_numbers_are_zero() -> None:
    x = np.array([-708.1, -745.0, -1e6, -1e30, -np.inf])
    found = np.empty_like(x)
    exp_into(x, found)
    assert (found == 0).all()


def test_the_logarithm_is_right_within_two_units() -> None:
    generator = np.random.default_rng(0)
    x = np.exp(generator.uniform(-700, 700, 200_000))
    near_one = 1 + generator.uniform(-1e-3, 1e-3, 50_000)
    for values in (x, near_one[near_one != 1], np.array([2.0, 0.5, np.e, 1e-300])):
        found = values.copy()
        log_in_place(found)
        assert units_apart(found, np.log(values)) <= 2
    ends = np.array([0.0, 1.0])
    log_in_place(ends)
    assert ends.tolist() == [-np.inf, 0.0]
