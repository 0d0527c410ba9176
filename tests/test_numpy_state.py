"""NumPy's random state is put back exactly, whatever was drawn and whatever the generator."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from gbi_pyro import _numpy_state
from gbi_pyro._numpy_state import NumpyState

LEGACY = np.random.RandomState  # the global functions below are bound methods of one
SEED, NORMAL, UNIFORM = np.random.seed, np.random.normal, np.random.random
GET, SET = np.random.get_state, np.random.set_state

DRAWS: dict[str, Callable[[], object]] = {
    "nothing": lambda: None,
    "one normal number": NORMAL,  # the stock alone moves, where there is one
    "two normal numbers": lambda: NORMAL(size=2),
    "uniform numbers": lambda: UNIFORM(700),
    "a new seed": lambda: SEED(7),
}


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    generator, state = np.random.get_bit_generator(), GET()  # type: ignore[attr-defined]
    yield
    np.random.set_bit_generator(generator)  # type: ignore[attr-defined]
    SET(state)


def upcoming() -> list[float]:
    return [NORMAL(), NORMAL(), *UNIFORM(3)]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("stock", [0, 1])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_what_comes_next_is_as_if_nothing_was_drawn(
    draw: Callable[[], object], stock: int, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr(_numpy_state, "_AT", None)
    SEED(stock)
    NORMAL(size=stock)
    assert GET()[3] == stock
    before, state = GET(), NumpyState()
    draw()
    state.put_back()
    assert str(GET()) == str(before)
    expected = upcoming()
    state.put_back()  # it may be repeated
    assert upcoming() == expected


def test_the_layout_of_memory_is_that_of_this_numpy() -> None:
    assert _numpy_state._AT is not None


def test_any_other_generator_is_put_back_as_well() -> None:
    np.random.set_bit_generator(np.random.PCG64(3))  # type: ignore[attr-defined]
    state = NumpyState()
    first = UNIFORM(3)
    state.put_back()
    np.testing.assert_array_equal(UNIFORM(3), first)
