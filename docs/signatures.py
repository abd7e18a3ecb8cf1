"""griffe learns which constructor the fields of an Equinox module make."""

from collections.abc import Iterator
from typing import Any

import griffe

_DATACLASS = griffe.ExprName("dataclasses.dataclass")


class Signatures(griffe.Extension):
    """Marks Equinox modules as dataclasses.

    griffe recognizes a dataclass by its decorator, but a module is a dataclass by its base class.
    Without the mark griffe knows no constructor, and warns of every documented argument.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Mark the modules of a package. griffe's own extension for dataclasses runs after this."""
        # All are found first: a mark must not change what is found later.
        for cls in [cls for cls in _classes(pkg) if _fields_make_constructor(cls)]:
            cls.decorators.append(griffe.Decorator(_DATACLASS, lineno=None, endlineno=None))
            for attribute in cls.attributes.values():
                value = attribute.value
                if isinstance(value, griffe.ExprCall) and value.canonical_path == "equinox.field":
                    attribute.value = _default(value)


def _classes(scope: griffe.Module | griffe.Class) -> Iterator[griffe.Class]:
    for member in scope.members.values():
        if isinstance(member, griffe.Class):
            yield member
        if isinstance(member, griffe.Module | griffe.Class):
            yield from _classes(member)


def _fields_make_constructor(cls: griffe.Class) -> bool:
    line = [cls, *cls.mro()]
    bases = [base.canonical_path for c in line for base in c.bases if isinstance(base, griffe.Expr)]
    written = any("__init__" in c.members for c in line)
    return not written and any(b == "equinox.Module" or b.startswith("diffrax.") for b in bases)


def _default(field: griffe.ExprCall) -> str | griffe.Expr | None:
    keywords = [a for a in field.arguments if isinstance(a, griffe.ExprKeyword)]
    return next((a.value for a in keywords if a.name == "default"), None)
