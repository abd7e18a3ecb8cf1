"""The options that every named optimizer shares."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar, get_type_hints

import optax


class Options(TypedDict, total=False):
    """Options of every named optimizer; one that the solver cannot use raises an error.

    Attributes:
      stage_transform: an optax transformation applied to every stage's gradient (None).
      staged: one stage for each call of `update`, without extra arguments (False).
      scan_stages: loop over the stages, for less memory; None: loop where this saves memory.
      correction: cancel the drift of the method, to this order; None for the plain method.

    `odeopt.ode_optimizer` explains them all.
    """

    stage_transform: optax.GradientTransformation | None
    staged: bool
    scan_stages: bool | None
    correction: int | None


_DEFAULTS: dict[str, Any] = {"staged": False}
_Named = TypeVar("_Named", bound=Callable[..., Any])


def named(function: _Named) -> _Named:
    """Write the shared options into the signature of a named optimizer.

    Then `help()` shows them, `optax.inject_hyperparams`, which binds arguments by the signature,
    works, and the error about an unknown argument names the optimizer.
    """
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    shared = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=annotation
        )
        for name, annotation in get_type_hints(Options).items()
    ]
    spelt = signature.replace(parameters=[*own, *shared])

    @functools.wraps(function)
    def build(*args: Any, **kwargs: Any) -> Any:
        unknown = [name for name in kwargs if name not in spelt.parameters]
        if unknown:  # else the error would name `ode_optimizer`
            raise TypeError(
                f"{function.__name__}() has no argument {unknown[0]!r}; write one of "
                f"{', '.join(spelt.parameters)}."
            )
        return function(*args, **kwargs)

    build.__signature__ = spelt  # type: ignore[attr-defined]
    return build  # type: ignore[return-value]
