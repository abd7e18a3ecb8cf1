"""What a method's diffrax class has in common with every other. May use: diffrax."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
from jaxtyping import Array, PyTree


class AbstractFace(diffrax.AbstractSolver):
    """A diffrax solver that steps as its `method` does: no error estimate, linear dense output."""

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable] = diffrax.LocalLinearInterpolation

    @property
    def stability_limit(self) -> float:
        r"""Real-axis stability limit $R$ of $h\lambda$."""
        return self.method.stability_limit  # type: ignore[attr-defined]

    def order(self, terms: Any) -> int:
        """That of the method."""
        return self.method.order  # type: ignore[attr-defined]

    def init(self, *args: Any) -> None:
        """Nothing is carried over."""

    def func(self, terms: diffrax.ODETerm, t0: Any, y0: PyTree[Array], args: Any) -> PyTree[Array]:
        """The vector field."""
        return terms.vf(t0, y0, args)
