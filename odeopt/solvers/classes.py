"""The named explicit methods of `ExplicitRungeKutta` as diffrax solver classes.

If diffrax has a method, the class here subclasses diffrax's and uses its tableau, so that dense
output, adaptive steps and `diffrax.diffeqsolve` behave as users of diffrax know them.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import numpy as np
from jaxtyping import Array, PyTree

from .adapter import AbstractAdapter, Adapted, Reached
from .explicit import ExplicitRungeKutta
from .tableau import Tableau


class Explicit(Adapted):
    """The properties that named explicit solvers add to diffrax's interface."""

    @property
    def coefficients(self) -> Tableau:
        """The tableau in odeopt's form."""
        return Tableau.from_diffrax(self.tableau)  # type: ignore[attr-defined]

    @property
    def method(self) -> ExplicitRungeKutta:
        """The pure step function that the optimizers use (no error estimate)."""
        return ExplicitRungeKutta(self.coefficients)

    @property
    def stability_polynomial(self) -> np.ndarray:
        """Coefficients of $R(z)$, ascending powers of `z`."""
        return self.method.tableau.stability_polynomial


class Euler(Explicit, diffrax.Euler):
    """Euler's method: gradient descent. Order 1, 1 gradient a step."""

    # diffrax's tableau class refuses a single stage
    coefficients = Tableau(a=[], b=[1.0])


class Heun(Explicit, diffrax.Heun):
    """Heun's method (explicit trapezoidal rule). Order 2, 2 gradients a step."""


class Midpoint(Explicit, diffrax.Midpoint):
    """The explicit midpoint rule. Order 2, 2 gradients a step."""


class Ralston(Explicit, diffrax.Ralston):
    """Ralston's method, with the least error bound of order 2. 2 gradients a step."""


class Bosh3(Explicit, diffrax.Bosh3):
    """Bogacki and Shampine's 3(2) pair. Order 3, 3 gradients a step."""


class Dopri5(Explicit, diffrax.Dopri5):
    """Dormand and Prince's 5(4) pair. Order 5, 6 gradients a step."""


class Tsit5(Explicit, diffrax.Tsit5):
    """Tsitouras' 5(4) pair. Order 5, 6 gradients a step."""


class AbstractUnpaired(Explicit, AbstractAdapter):
    """A solver for a tableau that diffrax lacks: no error estimate, so no adaptive steps.

    It cannot subclass diffrax's Runge-Kutta base, where every solver estimates its error.
    """

    tableau: ClassVar[diffrax.ButcherTableau]
    term_structure: ClassVar = diffrax.AbstractTerm

    @staticmethod
    def interpolation_cls(*, k0: Any, k1: Any, **ends: Any) -> diffrax.LocalLinearInterpolation:
        """Linear dense output between the ends of a step: no stage need be at its end."""
        return diffrax.LocalLinearInterpolation(**ends)

    def reached(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Reached:
        tableau, control = self.coefficients, terms.contr(t0, t1)
        slopes: list[PyTree[Array]] = []

        def point(weights: tuple[float, ...]) -> PyTree[Array]:
            used = [i for i, weight in enumerate(weights) if weight != 0]
            return jax.tree.map(lambda y, *k: y + sum(weights[i] * k[i] for i in used), y0, *slopes)

        for row, node in zip(tableau.a, tableau.c, strict=True):
            slopes.append(terms.vf_prod(t0 + node * (t1 - t0), point(row), args, control))
        return Reached(point(tableau.b), inside={"k0": slopes[0], "k1": slopes[-1]})


class SSPRK3(AbstractUnpaired):
    """Shu and Osher's strong-stability-preserving method. Order 3, 3 gradients a step."""

    tableau: ClassVar[diffrax.ButcherTableau] = Tableau(
        a=[[1.0], [1 / 4, 1 / 4]], b=[1 / 6, 1 / 6, 2 / 3]
    ).to_diffrax()


class LowStorage4(AbstractUnpaired):
    r"""Order 4 with one vector beside the point of a stage: 6 gradients a step, R = 4.36.

    $\delta_{i+1} = \gamma_i\delta_i + \alpha_ihk_i$, $k_i = f(z + \delta_i)$, $z^+ = z + \delta_6$:
    the two registers of a Williamson method, beside z, which optax keeps. Its leading error is 0.7
    of RK4's in a step. Derived here: $\alpha_0 = 0.66$, $\gamma_3 = -5$ and $\gamma_5 = 0.82$ are
    chosen near the least error for coefficients of this size, and the other coefficients solve the
    eight conditions of order 4 (`tests/solvers/test_low_storage.py`).
    """

    tableau: ClassVar[diffrax.ButcherTableau] = Tableau.from_recursion(
        keep=(0.0, 0.48679373306724673, 0.18794131466346204, -5.0, 0.88969992380097193, 0.82),
        add=(
            0.66,
            0.22740919959558376,
            -0.09054207142223082,
            0.55841958858049932,
            0.51092646790032773,
            0.21953211786429541,
        ),
    ).to_diffrax()


class RK4(AbstractUnpaired):
    """The classical Runge-Kutta method. Order 4, 4 gradients a step."""

    tableau: ClassVar[diffrax.ButcherTableau] = Tableau(
        a=[[1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0]], b=[1 / 6, 1 / 3, 1 / 3, 1 / 6]
    ).to_diffrax()
    # The last stage is at the end of the step up to O(h^3), so its slope is accurate enough.
    interpolation_cls: ClassVar[Callable] = diffrax.ThirdOrderHermitePolynomialInterpolation
