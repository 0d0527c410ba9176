"""Networks on disk: weights as safetensors, and what rebuilds the networks. No pickle."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gbi_pyro.files import Manifest, replacing

WEIGHTS, DESCRIPTION = "weights.safetensors", "weights.json"
LIBRARY = "gbi_pyro."


class Rebuildable(nn.Module):
    """A network that remembers the arguments it was built with, to be built again from a file.

    Of tensors among them the shape is kept: their values are part of the weights.

    Attributes:
        arguments: by name, as JSON can hold them; None where it cannot.
    """

    arguments: Mapping[str, Any] | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the object and keep its arguments."""
        network = super().__new__(cls)
        try:
            given = inspect.signature(cls.__init__).bind(network, *args, **kwargs)
            given.apply_defaults()
            kept = {k: v for k, v in given.arguments.items() if k not in ("self", "generator")}
            network.__dict__["arguments"] = {k: _as_json(v) for k, v in kept.items()}
        except TypeError:  # of arguments that do not fit, __init__ says what is wrong
            network.__dict__["arguments"] = None
        return network


def save_networks(folder: Path, networks: Mapping[str, nn.Module], *, run: str = "") -> None:
    """Write the weights of named networks, and beside them what rebuilds each.

    Weights that are tied are written once.

    Args:
        folder: gets ``weights.safetensors`` and ``weights.json``.
        networks: by name, which has no "/".
        run: what the files are of.

    Raises:
        OSError: where the files cannot be written.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    seen: dict[Any, str] = {}
    for name, network in networks.items():
        for key, value in network.state_dict().items():
            place = value.data_ptr(), value.dtype, tuple(value.shape), value.stride()
            path = f"{name}/{key}"
            if value.numel() and place in seen:
                tied[path] = seen[place]
            else:
                seen[place] = path
                # A copy: views of one storage would be refused.
                tensors[path] = value.detach().cpu().contiguous().clone()
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(tensors))
    about = {
        "run": run,
        "networks": {name: _description(network) for name, network in networks.items()},
        "tied": tied,
        "tensors": {k: [str(v.dtype), list(v.shape)] for k, v in tensors.items()},
    }
    with replacing(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(about, indent=2, allow_nan=False) + "\n")


def load_network(folder: str | Path, name: str, *, into: nn.Module | None = None) -> nn.Module:
    """Read a network of a finished run, with its weights bit by bit.

    Args:
        folder: of the run.
        name: of the network, as in the run's ``weights.json``.
        into: a network of the same shape that gets the weights, for networks that are not of the
            library, such as a study's own.

    Returns:
        The network, in eval mode, its weights frozen; ``into``, if it was given.

    Raises:
        ValueError: if the folder holds no finished run or was altered, has no such network, or the
            network cannot be rebuilt or has other weights.
        ImportError: if safetensors is not installed.

    Example:
        >>> network = load_network("runs/toy", "conditioned_0")  # doctest: +SKIP
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError:
        raise ImportError(
            "safetensors should be installed to read weights; got no such package: pip install "
            "safetensors"
        ) from None

    manifest = Manifest.read(Path(folder))
    about, raw = manifest.read_json(DESCRIPTION), manifest.read_bytes(WEIGHTS)
    try:
        networks = {key: (d["class"], d["arguments"]) for key, d in about["networks"].items()}
        tensors = load(raw)
        tensors |= {path: tensors[first] for path, first in about["tied"].items()}
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder} should hold weights as save_networks writes them; got others ({error!r})"
        ) from None
    if name not in networks:
        raise ValueError(
            f"name should be a network of {folder}, among {', '.join(networks)}; got {name!r}"
        )
    network = into if into is not None else _rebuilt(f"{folder}: {name}", *networks[name])
    start = f"{name}/"
    weights = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
    if differ := _differences(network.state_dict(), weights):
        raise ValueError(
            f"{name} of {folder} should have the weights of {type(network).__name__}; got others: "
            f"{differ}: build the network as it was, and pass it as into"
        )
    network.load_state_dict(weights)
    return network.requires_grad_(False).eval()


def _description(network: nn.Module) -> dict[str, Any]:
    return {"class": _place(type(network)), "arguments": getattr(network, "arguments", None)}


def _rebuilt(what: str, place: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        kind = _from_library(place, nn.Module)
        with torch.random.fork_rng(devices=[]):  # the first weights are replaced
            network: nn.Module = kind(**{k: _from_json(v) for k, v in arguments.items()})
    except (ImportError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{what} should be a network of this gbi_pyro that its arguments rebuild; got a "
            f"{place} ({error}): build it, and pass it as into"
        ) from None
    return network


def _differences(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """Say which weights are not of the same name, shape and type."""
    kinds = [{k: (tuple(v.shape), v.dtype) for k, v in d.items()} for d in (ours, theirs)]
    return ", ".join(
        f"{k} {kinds[1].get(k, 'absent')} for {kinds[0].get(k, 'absent')}"
        for k in sorted(kinds[0].keys() | kinds[1].keys())
        if kinds[0].get(k) != kinds[1].get(k)
    )


def _as_json(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"tuple": _place(type(value)), "values": [*map(_as_json, value)]}
    if isinstance(value, (tuple, list)):
        return [*map(_as_json, value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"JSON has no {type(value).__name__}")


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_from_json, value))
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return torch.ones(value["tensor"], dtype=getattr(torch, value["dtype"]))
    return _from_library(value["tuple"], tuple)(*map(_from_json, value["values"]))


def _place(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _from_library(place: str, base: type) -> Any:
    """Import the class that ``module:name`` says: one of gbi_pyro, for a file may say anything."""
    module, _, name = place.partition(":")
    if not module.startswith(LIBRARY):
        raise ImportError("it is not of gbi_pyro")
    found = getattr(importlib.import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise TypeError(f"it is no {base.__name__}")
    return found
