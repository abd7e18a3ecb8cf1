"""Names of a package that are imported at their first use."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def later(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562) for the names of some of its modules.

    An empty list of names stands for the module itself.
    """
    where = {name: module for module, names in modules.items() for name in names or (module,)}

    def attribute(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = importlib.import_module(f".{where[name]}", package)
        found = getattr(found, name) if modules[where[name]] else found
        setattr(sys.modules[package], name, found)
        return found

    return attribute, lambda: sorted({*vars(sys.modules[package]), *where})
