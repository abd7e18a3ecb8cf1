"""One short module a claim: what a paper says, how it is asked here, what decides it.

A module's `CLAIM` is found by the module's name, with dashes for underscores. Its docstring is the
statement. The criterion is committed before the experiment is run for the first time.
"""

import functools
import importlib
import pkgutil

from ..claim import Claim


@functools.cache
def claims() -> dict[str, Claim]:
    """Every claim by name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = {name: importlib.import_module(f"{__name__}.{name}").CLAIM for name in names}
    return {name.replace("_", "-"): claim for name, claim in found.items()}
