"""The parts that the diffrax classes of all methods share."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..lanczos import flatten, unflatten
from ..objective import LinearMap


class FlatTerm(diffrax.AbstractTerm):
    """A term whose state is one real vector, for code without complex or mixed dtypes.

    Linear solvers do not promote dtypes. And a field need not be holomorphic: its Jacobian is then
    linear only as a map of real and imaginary parts.
    """

    term: diffrax.AbstractTerm  # the term on trees
    like: PyTree[Array]  # a tree with the shapes and dtypes of its state

    def vf(self, t: Any, y: Array, args: Any) -> PyTree[Array]:
        """The vector field of the term, a tree."""
        return self.term.vf(t, unflatten(y, self.like), args)

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> PyTree[Array]:
        """The control of the term; it carries the sign when diffrax integrates backwards."""
        return self.term.contr(t0, t1, **kwargs)

    def prod(self, vf: PyTree[Array], control: PyTree[Array]) -> Array:
        """The product by the term, as a flat vector."""
        return flatten(self.term.prod(vf, control))


class Reached(NamedTuple):
    """The end of a step, and the data that dense output needs beside both ends."""

    y1: PyTree[Array]
    result: Any = diffrax.RESULTS.successful
    inside: dict[str, PyTree[Array]] | None = None


Stepped = tuple[PyTree, PyTree | None, dict[str, PyTree], None, diffrax.RESULTS]
"""The return value of diffrax's `step`: end, error, dense output, memory, result."""


class Adapted:
    """What all diffrax classes of odeopt's methods have beside `method`, the pure step function."""

    splits: ClassVar[bool] = False  # whether its field comes in two parts

    @property
    def stability_limit(self) -> float:
        r"""Real-axis stability limit $R$ of $h\lambda$."""
        return self.method.stability_limit  # type: ignore[attr-defined]

    @property
    def gradients_per_step(self) -> int | None:
        """Gradients of an optimizer step of fixed size, the first one included; None: not known."""
        return self.method.gradients_per_step  # type: ignore[attr-defined]


class AbstractAdapter(Adapted, diffrax.AbstractSolver):
    """A diffrax solver that steps as its `method` does: no error estimate, linear dense output."""

    term_structure: ClassVar[Any] = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable] = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        return self.method.order  # type: ignore[attr-defined]

    def init(self, *args: Any) -> None:
        """No memory: every step is a fresh start."""

    @abc.abstractmethod
    def reached(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Reached:
        """The end of a step from `y0`."""

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: Any, solver_state: Any, made_jump: Any
    ) -> Stepped:
        y1, result, inside = self.reached(terms, t0, t1, y0, args)
        return y1, None, {"y0": y0, "y1": y1, **(inside or {})}, None, result

    def func(self, terms: Any, t0: Any, y0: PyTree[Array], args: Any) -> PyTree[Array]:
        return terms.vf(t0, y0, args)


class AbstractLinearized(AbstractAdapter):
    """A diffrax solver whose step is a function of the field and of its Jacobian at the start.

    Time is one more variable with derivative 1, so that a time-dependent field loses no order.
    """

    @abc.abstractmethod
    def move(
        self, h: Array, f: Array, jacobian: LinearMap, field: Callable[[Array], Array]
    ) -> tuple[Array, diffrax.RESULTS]:
        """The increment of (time, state) as one real vector, and whether it was found.

        `f` is the field at the start, `jacobian` the map `v -> J v` there, and `field` maps an
        increment to the field at the start plus this increment.
        """

    def reached(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Reached:
        time = jnp.asarray(t0)
        like = time, y0
        start = flatten(like)
        forwards = terms.contr(jnp.zeros_like(time), jnp.ones_like(time))

        def field(increment: Array) -> Array:
            now, y = unflatten(start + increment, like)
            return flatten((jnp.ones_like(now), terms.vf_prod(now, y, args, forwards)))

        f, jacobian = jax.linearize(field, jnp.zeros_like(start))
        moved, result = self.move(jnp.asarray(t1 - t0), f, jacobian, field)
        _, update = unflatten(moved, like)
        return Reached(jax.tree.map(jnp.add, y0, update), result)
