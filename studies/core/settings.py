"""Settings as text: the types of a configuration's fields, ``key=value``, and lists of seeds."""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable
from typing import Any

import click

NONE = "none"  # the text for a field that may be None


def option_type(hint: Any) -> tuple[Any, bool]:
    """Return click's type of a field, and whether it is a list of values; None for other fields."""
    if hint in (int, float, str, bool):
        return hint, False
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return click.Choice(list(args)), False
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis and args[0] in (int, float, str):
        return _Listed(args[0]), True
    plain = [a for a in args if a is not type(None)]
    return option_type(plain[0]) if type(None) in args and len(plain) == 1 else (None, False)


class _Listed(click.ParamType):  # type: ignore[type-arg]
    """Values with commas between them."""

    name = "a,b,..."

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(
                f"expected {self.kind.__name__} values with commas, got {value!r}", param, ctx
            )


def parse_setting(config_type: type, text: str) -> tuple[str, Any]:
    """Return the name and the value that ``key=value`` gives to a field of a configuration.

    Hyphens in the key are underscores, and ``none`` is None where the field may be None.

    Args:
        config_type: the dataclass of the settings.
        text: ``key=value``; a list has commas between its values, and what is nested is JSON.

    Raises:
        ValueError: for an unknown key, and for a value that does not fit the field.

    >>> from studies.core.protocol import Seeds
    >>> parse_setting(Seeds, "first-seed=5")
    ('first_seed', 5)
    """
    name, value = _split(config_type, text)
    return name, _convert(config_type, name, value)


def parse_grid(config_type: type, text: str) -> tuple[str, tuple[Any, ...]]:
    """Return the name and the values of ``key=a,b``, settings that are compared with each other.

    Where the field is a list itself, semicolons separate its values: ``key=0.1,0.2;0.3``.

    Args:
        config_type: the dataclass of the settings.
        text: ``key=a,b,...``

    Raises:
        ValueError: see ``parse_setting``; and for a value that is given twice.

    >>> from studies.core.protocol import Seeds
    >>> parse_grid(Seeds, "seeds=5,10")
    ('seeds', (5, 10))
    """
    name, given = _split(config_type, text)
    _, listed = option_type(typing.get_type_hints(config_type)[name])
    parts = given.split(";" if listed else ",")
    values = tuple(_convert(config_type, name, part.strip()) for part in parts)
    if len(set(values)) < len(values):
        raise ValueError(f"{name} should have each value once; got {given!r}")
    return name, values


def _split(config_type: type, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a setting should be key=value; got {text!r}")
    name = key.strip().replace("-", "_")
    names = [field.name for field in dataclasses.fields(config_type)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
        raise ValueError(f"{config_type.__name__} has no setting {key.strip()!r}: {hint}")
    return name, value.strip()


def _convert(config_type: type, name: str, text: str) -> Any:
    hint = typing.get_type_hints(config_type)[name]
    kind, _ = option_type(hint)
    if kind is None:
        return _structured(hint, name, text)
    if text.lower() == NONE and type(None) in typing.get_args(hint):
        return None
    try:
        return click.types.convert_type(kind).convert(text, None, None)
    except click.BadParameter as error:
        raise ValueError(f"{name}={text}: {error.message}") from None


def _structured(hint: Any, name: str, text: str) -> Any:
    """Read a value that is no number, text or list of them from JSON."""
    from studies.core.cache import structure

    try:
        return structure(json.loads(text), hint)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} should be JSON of a {hint}; got {text}: {error}") from None


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a list of numbers and ranges, both ends included, in ascending order.

    Raises:
        ValueError: for anything else, and for a seed that is given twice.

    >>> parse_seeds("7,0-3")
    (0, 1, 2, 3, 7)
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, hyphen, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not hyphen)):
            raise ValueError(f"seeds should be numbers and ranges, such as 0-19,25; got {text!r}")
        found = range(int(first), int(last or first) + 1)
        if not found:
            raise ValueError(f"the range of seeds {part.strip()} should go up")
        seeds += found
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds should have each seed once; got {text!r}")
    return tuple(sorted(seeds))


def format_seeds(seeds: Iterable[int]) -> str:
    """Return seeds as ``parse_seeds`` reads them, in ascending order.

    >>> format_seeds([7, 0, 1, 2, 3])
    '0-3,7'
    """
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1][1:] = [seed]
        else:
            ranges.append([seed])
    return ",".join("-".join(map(str, r)) for r in ranges)
