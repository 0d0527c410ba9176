"""The options of a study's command: a configuration from options, ``--set`` and ``--config``."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from studies.core.settings import option_type, parse_setting

SUBJECT = re.compile(r"^.*? (?=must |should )")  # of an error message: the fields that are wrong


def config_options(config_type: type) -> Iterator[click.Option]:
    """Make an option of each field of a configuration, with its default and its description."""
    hints, described = typing.get_type_hints(config_type), _descriptions(config_type)
    for field in dataclasses.fields(config_type):
        kind, multiple = option_type(hints[field.name])
        if kind is None:
            continue
        flag = _flag(field.name)
        yield click.Option(
            [f"{flag}/--no{flag[1:]}" if kind is bool else flag, field.name],
            type=None if kind is bool else kind,
            default=None,
            callback=_as_tuple if multiple else None,
            help=f"{described.get(field.name, '')}  [default: {_shown(field.default)}]".strip(),
        )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _as_tuple(_ctx: Any, _param: Any, value: Any) -> Any:
    return None if value is None else tuple(value)


def _descriptions(config_type: type) -> dict[str, str]:
    """Read what each field is from the ``Attributes:`` of the docstring, and of its bases'."""
    texts = [inspect.cleandoc(base.__doc__ or "") for base in reversed(config_type.__mro__)]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in "\n".join(text.partition("Attributes:")[2] for text in texts).splitlines():
        head, colon, rest = line.strip().partition(": ")
        if line.startswith("    ") and not line.startswith("     ") and colon:
            names = [name.strip() for name in head.split(",")]
            found |= dict.fromkeys(names, rest)
        elif line.strip():
            for name in names:
                found[name] += f" {line.strip()}"
    return found


def configure(
    study: Any, file: Path | None, settings: Sequence[str], given: Mapping[str, Any]
) -> Any:
    """Return the configuration that a command line asks for.

    Args:
        study: the class of the study.
        file: ``config.json`` of a run of it, whose configuration takes the place of the defaults.
        settings: ``key=value`` each.
        given: the values of the options by field; None for those that were not given.

    Raises:
        ValueError: for a field that is given twice, a value that does not fit, and a file that is
            not of a run of this study.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    for text in settings:
        name, value = parse_setting(study.config_type, text)
        if name in changes:
            raise ValueError(f"{name} should be given once; --set {text} gives it again")
        changes[name] = value
    try:
        if file is None:
            return study.config_type(**changes)
        return dataclasses.replace(_read_config(study, file), **changes)
    except ValueError as error:
        raise ValueError(_with_options(str(error), study.config_type)) from None


def _read_config(study: Any, file: Path) -> Any:
    from studies.core.cache import read_config

    try:
        about = json.loads(file.read_bytes())
        found = about["study"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"--config {file} should be the config.json of a run; it is of no study"
        ) from None
    if found != study.name:
        raise ValueError(f"--config {file} should be of a run of {study.name}; it is of {found}")
    return read_config(about, study.config_type)


def _with_options(message: str, config_type: type) -> str:
    """Name the options in place of the fields that a message says are wrong."""
    fields = "|".join(field.name for field in dataclasses.fields(config_type))
    return SUBJECT.sub(
        lambda subject: re.sub(rf"(?<![\w-])({fields})\b", lambda m: _flag(m[1]), subject[0]),
        message,
    )
