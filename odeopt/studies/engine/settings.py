"""The choices of a study: what is given, what is refused, and what is stored of them."""

import dataclasses
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from ... import __version__
from ...checks import is_known, is_whole
from .checksums import fingerprint


def items(value: Any) -> tuple:
    """A tuple of one or several values, each once."""
    alone = isinstance(value, str | Mapping) or not hasattr(value, "__iter__")
    unique: dict[Any, Any] = {}
    for item in (value,) if alone else value:
        plain = isinstance(item, str | int | float)
        unique.setdefault(item if plain else (id(item),), item)  # others may have no hash
    return tuple(unique.values())


def spoken(value: Any) -> Any:
    """A setting as it is stored: an object by its name, with a checksum of what it does."""
    if isinstance(value, tuple | list):
        return [spoken(item) for item in value]
    if isinstance(value, Mapping):
        return ", ".join(f"{name} ({fingerprint(make)})" for name, make in value.items())
    if hasattr(value, "version"):
        return f"{value.name} ({value.version})"
    if hasattr(value, "name"):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def chosen(name: str, default: Any, value: Any) -> Any:
    """A setting as it is given, or of several values a tuple.

    Raises a `ValueError` for no number where the default is one, no value where it has some.
    """
    option = f"--{name.replace('_', '-')}"
    if isinstance(default, tuple):
        value = items(value)
        if default and not value:
            raise ValueError(f"{option} is empty: name one at least, such as {default[0]}.")
    if type(default) is int and not is_whole(value):
        raise ValueError(f"{option} is {value!r}: write a whole number, such as {default}.")
    if type(default) is float and not is_known(value):
        raise ValueError(f"{option} is {value!r}: write a number, such as {default:g}.")
    return value


def idle(settings: Any) -> Mapping[str, str]:
    """Settings that would change nothing beside the others, and what to write instead."""
    return getattr(settings, "idle", {})


def at_least(settings: Any, **bounds: float) -> None:
    """Refuse settings that are below a bound, by the name of their option."""
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if value is not None and not value >= bound:
            raise ValueError(
                f"--{name.replace('_', '-')} must be at least {bound:g}, not {value:g}."
            )


def versions() -> dict[str, str]:
    """Versions of what computes the results."""
    packages = ("jax", "jaxlib", "optax", "diffrax", "numpy")
    found = {name: metadata.version(name) for name in packages}
    return {"odeopt": __version__, **found, "python": platform.python_version()}
