"""The exponential Euler method: the linearized flow, followed exactly."""

import math
from collections.abc import Callable
from typing import ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ..arrays import Scalar
from ..checks import check_counts, check_least
from ..flows import AbstractFlow, State
from ..lanczos import BREAKDOWN, combined, dimension, krylov, lanczos
from ..loops import while_loop
from ..objective import LinearMap, Objective
from ..sums import add, finite, inner, multiple, norm, widened
from .adapter import AbstractLinearized
from .linear import Curvature, Curved, LinearSolve, checked, known_count
from .method import AbstractCurvatureMethod, CounterTerm, Model, Step, field_cost
from .systems import no_solve


class Exponential(AbstractCurvatureMethod, Curved):
    r"""Exponential Euler: $x^+ = x - h\varphi_1(-hB)\nabla E(x)$, $\varphi_1(z) = (e^z - 1)/z$.

    It follows the flow of the quadratic model, $\dot u = -(\nabla E(x) + Bu)$ with $u(0) = 0$, for
    a time $h$. Order 2 if B is the Hessian, else 1. Stable on the whole negative axis: its
    stability function is $e^{-h\lambda}$.

    $\varphi_1$ is evaluated on the Krylov space of B and the gradient, by Lanczos' algorithm. The
    model never rises along this path, however small the space. With `basis` below `products` the
    space is restarted where its error would exceed the tolerance; the last one follows the flow to
    the end.

    The arguments are those of `odeopt.exponential_euler`.

    Raises:
      ValueError: an unknown curvature, fewer than 1 product, a basis that does not divide them, a
        negative tolerance, a fraction outside (0, 1].
    """

    curvature: Curvature = eqx.field(static=True)
    products: int = eqx.field(static=True)
    basis: int | None = eqx.field(static=True)
    tolerance: float | Scalar
    fraction: float = eqx.field(static=True)

    def __init__(
        self,
        curvature: Curvature = "auto",
        products: int | None = None,
        basis: int | None = None,
        tolerance: float | Scalar = 1e-3,
        fraction: float | None = None,
    ) -> None:
        self.curvature, self.products, self.fraction = checked(curvature, products, fraction)
        self.basis = None if basis is None else known_count("basis", basis, self.products)
        self.tolerance = tolerance
        if self.basis is not None and not (self.basis >= 1 and self.products % self.basis == 0):
            raise ValueError(
                f"basis is {self.basis}; it must divide products, {self.products}, which are used "
                "in as many restarts."
            )
        check_least(0, tolerance=tolerance)

    @property
    def counter_term(self) -> CounterTerm | None:  # type: ignore[override]
        """The penalty, where the curvature is the Hessian of the whole loss."""
        return "penalty" if self.is_hessian else None

    @property
    def order(self) -> int:
        """2 with the Hessian (the local error has order 3); 1 with any other matrix."""
        return 2 if self.curvature == "hessian" else 1

    @property
    def gradients_per_step(self) -> int:
        """The most that a step takes; the state counts the actual number."""
        return 1 + 2 * self.products

    def init(self, flow: AbstractFlow, z: State) -> LinearSolve:
        """An empty report; a step does not use that of the last one."""
        return no_solve()

    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: LinearSolve
    ) -> Step:
        params, aux = z
        solved = flow.potential(objective, h)
        product = self.product(solved, params)
        convex = self.is_gauss_newton(solved)
        slope = widened(solved.here(params))
        size = max(1, min(self.basis or self.products, dimension(params)))  # 0 without leaves

        def goes_on(carry: tuple) -> Array:
            *_, rest, _, taken = carry
            # A step of size 0 runs once, so that it has a derivative in the step size.
            return ((rest > 0) | (taken == 0)) & (taken + size <= self.products)

        def restarted(carry: tuple) -> tuple:
            moved, image, form, rest, _, taken = carry
            left = jax.tree.map(lambda g, b: -(g + b), slope, image)
            length = norm(left)
            start = jax.tree.map(lambda x: jnp.where(length > 0, x, 1), left)
            ritz = lanczos(product, start, params, size)
            # Ritz vectors have the dtype of the parameters, time has the default one
            values, vectors = ritz.values.astype(float), ritz.vectors.astype(float)
            along = length * vectors[0]  # the start of the space, in Ritz vectors
            if convex:  # negative by rounding only, which a long time would amplify
                values = jnp.maximum(values, 0.0)
            last_one = taken + 2 * size > self.products
            # The rest of the time, halved until the error is below the tolerance.
            times = rest * 0.5 ** jnp.arange(60, dtype=rest.dtype)
            coefficients = jax.vmap(lambda t: _followed(values, t) * along)(times)
            errors = times * norm(ritz.beyond) * jnp.abs(coefficients @ vectors[-1])
            fits = errors <= self.tolerance * jnp.linalg.norm(coefficients, axis=1)
            index = jnp.where(last_one, 0, jnp.argmax(fits))  # 0 also if none fits
            found = coefficients[index]
            inside = vectors @ found
            further = combined(inside, ritz.basis)
            turned = combined(vectors @ (values * found), ritz.basis)
            form = form + 2 * inner(further, image) + jnp.sum(values * found**2)
            tiny = jnp.finfo(length.dtype).tiny
            error = errors[index] / jnp.maximum(jnp.linalg.norm(found), tiny)
            rest = jnp.where(index == 0, 0.0, rest - times[index])
            image = add(add(image, turned), multiple(inside[-1], ritz.beyond))
            return add(moved, further), image, form, rest, error, taken + size

        zero = jax.tree.map(jnp.zeros_like, slope)
        nothing = jnp.zeros([], float)
        begin = zero, zero, nothing, h.astype(float), nothing, jnp.int32(0)
        moved, _, form, _, error, taken = while_loop(goes_on, restarted, begin)
        update = optax.tree.cast_like(moved, params)
        memory = LinearSolve((), taken, error, form)
        own = solved is objective  # a model of the caller's own loss
        model = Model(inner(slope, update), 0.5 * form) if own else None
        cost = self.product_cost(solved, field_cost(flow, z, h))
        used = field_cost(flow, z, h, given=True) + cost * taken
        return Step(update, aux, memory, None, model, used, finite(update, memory))


def _followed(curvature: Float[Array, " m"], time: Scalar) -> Float[Array, " m"]:
    r"""$t\varphi_1(-t\lambda) = (1 - e^{-t\lambda})/\lambda$."""
    exponent = time * curvature
    flat = jnp.abs(exponent) < jnp.sqrt(jnp.finfo(exponent.dtype).eps)
    safe = jnp.where(flat, 1.0, curvature)
    series = sum((-exponent) ** k / math.factorial(k + 1) for k in range(6))  # for derivatives at 0
    return jnp.where(flat, time * series, -jnp.expm1(-exponent) / safe)


class ExponentialEuler(AbstractLinearized):
    r"""The exponential Euler method for any ODE: $y^+ = y + h\varphi_1(hJ)f$.

    Order 2, exact if the field is linear. J is the Jacobian of the field in time and state
    together, projected on a Krylov space by Arnoldi's algorithm.

    Args:
      products: products with the Jacobian in a step.
    """

    products: int = 10
    method: ClassVar[Exponential] = Exponential("hessian")
    gradients_per_step: ClassVar[int] = 1  # products with the Jacobian come on top

    def __check_init__(self) -> None:
        check_counts(products=self.products)

    def move(
        self, h: Array, f: Array, jacobian: LinearMap, field: Callable[[Array], Array]
    ) -> tuple[Array, diffrax.RESULTS]:
        """Take the exponential of one matrix that holds the projected Jacobian and the start."""
        size = min(self.products, f.size)
        space = krylov(jacobian, f, size)
        images = jnp.hypot(jnp.linalg.norm(space.within, axis=1), space.beyond)
        exhausted = space.beyond <= BREAKDOWN * jnp.finfo(f.dtype).eps * images
        below = jnp.where(exhausted, 0.0, space.beyond)
        projected = space.within.T + jnp.diag(below[:-1], -1)
        step = h.astype(f.dtype)
        whole = jnp.zeros((size + 1, size + 1), f.dtype)
        whole = whole.at[:size, :size].set(step * projected)
        whole = whole.at[0, size].set(step * jnp.linalg.norm(f))
        followed = jax.scipy.linalg.expm(whole)[:size, size] @ space.basis
        return followed, diffrax.RESULTS.successful  # type: ignore[return-value]
