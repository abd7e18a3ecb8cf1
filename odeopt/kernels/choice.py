"""Which form of a fused update runs where."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, get_args

Kernel: TypeAlias = Literal["auto", "jnp", "pallas"]
"""`"jnp"`: XLA fuses the update. `"pallas"`: a Pallas kernel, on NVIDIA GPUs and TPUs.
`"auto"`: the Pallas kernel on a platform where it was measured to be faster, else `"jnp"`."""

PLATFORMS = ("cuda", "tpu")

MEASURED: dict[str, frozenset[str]] = {}
"""Platform -> names of the kernels that `"auto"` runs there: those whose paired timing on that
platform (`python -m benchmarks --gpu`) was at most 0.95 of the reference's. None so far."""

# For tests: the GPU or the TPU form in Pallas' interpreter, on any platform.
INTERPRETED = {"interpret": "cuda", "interpret_tpu": "tpu"}

_current: contextvars.ContextVar[str] = contextvars.ContextVar("kernel", default="auto")


def current() -> str:
    """The kind for the optimizer whose update is being traced; `"auto"` outside of any update."""
    return _current.get()


@contextlib.contextmanager
def chosen(kind: str) -> Iterator[None]:
    """Set the kind for an optimizer, for the duration of its update.

    Not for users, who need `using`: a program that is already traced keeps the kind that it was
    traced with.
    """
    check_kernel(kind)
    token = _current.set(kind)
    try:
        yield
    finally:
        _current.reset(token)


def using(kind: Kernel, opt: Any) -> Any:
    """Return the optimizer with updates computed by kernels of this kind; the state is the same.

    Args:
      kind: `"auto"`, `"jnp"` or `"pallas"`, see `Kernel`.
      opt: an optimizer of odeopt.

    Raises:
      ValueError: an unknown kind.
      TypeError: an `opt` that is not an optimizer of odeopt, such as a chain.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> opt = odeopt.kernels.using("jnp", odeopt.heavy_ball(0.5, momentum=0.9))
      >>> params = jnp.ones(2)
      >>> opt.update(params, opt.init(params), params)[0]
      Array([-0.5, -0.5], dtype=float32)
    """
    check_kernel(kind)
    try:
        design = dataclasses.replace(opt.design, kernel=kind)
    except AttributeError:
        raise TypeError(
            f"using() takes an optimizer of odeopt, not a {type(opt).__name__}. In a chain write "
            f"optax.chain(..., odeopt.kernels.using({kind!r}, opt))."
        ) from None
    return opt._replace(
        init=dataclasses.replace(opt.init, design=design),
        update=dataclasses.replace(opt.update, design=design),
    )


def check_kernel(kernel: str) -> None:
    """Raise a `ValueError` with the valid names if `kernel` is none of them."""
    names = get_args(Kernel)
    if kernel not in (*names, *INTERPRETED):
        given = repr(kernel) if isinstance(kernel, str) else f"of type {type(kernel).__name__}"
        raise ValueError(f"kernel is {given}; it must be one of {', '.join(map(repr, names))}.")


def where(kernel: str, name: str) -> tuple[str, ...]:
    """The platforms on which `name` runs its Pallas form, or the kind that was asked for."""
    if kernel == "auto":
        return tuple([p for p in PLATFORMS if name in MEASURED.get(p, ())]) if MEASURED else ()
    return () if kernel == "jnp" else (kernel,)
