"""Which form of a fused update runs where. May use: nothing."""

from typing import Literal, TypeAlias, get_args

Kernel: TypeAlias = Literal["auto", "jnp", "pallas"]
"""`"jnp"`: XLA fuses the update. `"pallas"`: a Pallas kernel, on GPU (Triton) and TPU only.
`"auto"`: the Pallas kernel on a platform where it was measured to be faster, else `"jnp"`."""

PLATFORMS = ("cuda", "rocm", "tpu")

MEASURED: dict[str, frozenset[str]] = {}
"""Platform -> names of the kernels that `"auto"` runs there: those whose paired timing on that
platform (`python -m benchmarks --gpu`) was at most 0.95 of the reference's. None so far."""

# For tests: the GPU or the TPU form in Pallas' interpreter, on any platform.
INTERPRETED = {"interpret": "cuda", "interpret_tpu": "tpu"}


def check_kernel(kernel: str) -> None:
    """Refuse what is no name of a form.

    Raises:
      ValueError: with the names that there are.
    """
    names = get_args(Kernel)
    if kernel not in names and kernel not in INTERPRETED:
        raise ValueError(f"kernel is {kernel!r}; it is one of {', '.join(map(repr, names))}.")


def where(kernel: str, name: str) -> tuple[str, ...]:
    """The platforms on which the update `name` runs its Pallas form; `()` for jnp everywhere.

    Args:
      kernel: what the user chose.
      name: of the fused update, as in `MEASURED`.
    """
    check_kernel(kernel)
    if kernel == "auto":
        return tuple(p for p in PLATFORMS if name in MEASURED.get(p, ()))
    if kernel == "jnp":
        return ()
    return PLATFORMS if kernel == "pallas" else (kernel,)


import contextlib, contextvars, dataclasses
_CHOICE = contextvars.ContextVar("kernel", default="auto")
@contextlib.contextmanager
def chosen(kind):
    token = _CHOICE.set(kind or "auto")
    try:
        yield
    finally:
        _CHOICE.reset(token)
