"""Butcher tableaus of explicit Runge-Kutta methods, and properties that follow from them."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import diffrax
import numpy as np

Values = Sequence[Any] | np.ndarray

_TOLERANCE = 1e-9  # published coefficients carry about 16 digits; a typo shows far above this
_SAMPLES = 32  # grid points for each stage: between them |R| is larger by 0.12 % at most
_NEAR = 0.99  # a peak below this stays below 1 between the points too
_TOUCHING = 1e-9  # |R| may exceed 1 by this much, by rounding, where it only touches 1
_ROUNDING = 1e-13
_HALVINGS = 60


@dataclasses.dataclass(frozen=True, init=False)
class Tableau:
    r"""The coefficients of an explicit Runge-Kutta method.

    $k_i = f(z + h\sum_{j<i} a_{ij}k_j)$, $z^+ = z + h\sum_i b_ik_i$. Unlike
    `diffrax.ButcherTableau` it allows a single stage, and says "no error estimate" with None.

    Args:
      a: the lower triangle: one row for each stage after the first (`[[a21], [a31, a32], ...]`),
        or the whole strictly lower-triangular matrix.
      b: the weights, one for each stage.
      c: the nodes, one for each stage; default: the row sums of `a`.
      b_error: weights of the error estimate (they sum to 0), or None.

    Raises:
      ValueError: sizes that do not fit, an entry on or above the diagonal, a row of `a` whose sum
        is not its node, `b` that does not sum to 1, `b_error` that does not sum to 0.

    Examples:
      >>> heun3 = Tableau(a=[[1 / 3], [0, 2 / 3]], b=[1 / 4, 0, 3 / 4])
      >>> heun3.order, heun3.stages, round(heun3.stability_limit, 4)
      (3, 3, 2.5127)
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    b_error: tuple[float, ...] | None

    def __init__(
        self, a: Values, b: Values, c: Values | None = None, b_error: Values | None = None
    ) -> None:
        weights = np.asarray(b, float)
        stages = len(weights)
        rows = [np.asarray(row, float) for row in a]
        if len(rows) == stages - 1:
            rows.insert(0, np.zeros(0))
        if len(rows) != stages:
            raise ValueError(
                f"b has {stages} weights, so a needs {stages - 1} rows, one for each stage after "
                f"the first, but has {len(rows)}."
            )
        for i, row in enumerate(rows):
            if len(row) < i or np.any(row[i:] != 0):
                raise ValueError(
                    f"The row of a for stage {i + 1} is {row.tolist()}, but stage {i + 1} of an "
                    f"explicit method has exactly {i} coefficients. For an implicit one pass a "
                    "diffrax solver: `odeopt.from_diffrax(solver, learning_rate)`."
                )
            rows[i] = row[:i]
        nodes = np.array([row.sum() for row in rows]) if c is None else np.asarray(c, float)
        error = None if b_error is None else np.asarray(b_error, float)
        for name, values in (("c", nodes), ("b_error", error)):
            if values is not None and len(values) != stages:
                raise ValueError(f"b has {stages} weights, so {name} needs {stages} entries too.")
        for i, row in enumerate(rows):
            _check_sum(f"the row of a for stage {i + 1}", row, nodes[i], f"its node c[{i}]")
        _check_sum("b", weights, 1.0, "consistency")
        if error is not None:
            _check_sum("b_error", error, 0.0, "it is a difference of weights")
        # Tuples make the tableau hashable, so that it can be a static part of a compiled step.
        set_ = functools.partial(object.__setattr__, self)
        set_("a", tuple(tuple(row.tolist()) for row in rows))
        set_("b", tuple(weights.tolist()))
        set_("c", tuple(nodes.tolist()))
        set_("b_error", None if error is None else tuple(error.tolist()))

    @classmethod
    def from_diffrax(cls, tableau: diffrax.ButcherTableau) -> "Tableau":
        """The same method from `solver.tableau`; an all-zero `b_error` is read as no estimate."""
        if tableau.implicit:
            raise ValueError("This tableau is implicit: use `odeopt.from_diffrax(solver, ...)`.")
        b_error = tableau.b_error if np.any(tableau.b_error) else None
        return cls(tableau.a_lower, tableau.b_sol, np.concatenate([[0.0], tableau.c]), b_error)

    @classmethod
    def from_recursion(cls, keep: Sequence[float], add: Sequence[float]) -> "Tableau":
        r"""The method $\delta_{i+1} = \gamma_i\delta_i + \alpha_ihk_i$: `keep` is γ, `add` is α."""
        displacement = np.zeros(len(add))
        rows = []
        for i, (gamma, alpha) in enumerate(zip(keep, add, strict=True)):
            displacement = gamma * displacement
            displacement[i] = alpha
            rows.append(displacement)
        return cls([row[: i + 1] for i, row in enumerate(rows[:-1])], rows[-1])

    def to_diffrax(self) -> diffrax.ButcherTableau:
        """The same method for a diffrax solver class; diffrax wants at least two stages."""
        b_error = np.asarray(self.b_error or np.zeros(self.stages))
        a_lower, c = tuple(map(np.asarray, self.a[1:])), np.asarray(self.c[1:])
        return diffrax.ButcherTableau(
            a_lower=a_lower, b_sol=np.asarray(self.b), b_error=b_error, c=c
        )

    @property
    def rows(self) -> tuple[tuple[float, ...], ...]:
        """The weights for the point of every stage, and for the end of the step."""
        return (*self.a, self.b)

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def matrix(self) -> np.ndarray:
        """`a` as a square matrix, shape (stages, stages)."""
        return np.array([row + (0.0,) * (self.stages - len(row)) for row in self.a])

    def without_error(self) -> "Tableau":
        """The method that only advances: stages that serve the error estimate alone are dropped."""
        last = int(np.flatnonzero(self.b)[-1]) + 1
        return Tableau(self.a[:last], self.b[:last], self.c[:last])

    @functools.cached_property
    def order(self) -> int:
        r"""Order of accuracy, by the order conditions $b\cdot u(t) = 1/\gamma(t)$ on rooted trees.

        Every tree is a Butcher product of two smaller ones, under which $u(t_1\circ t_2) = u(t_1)
        \cdot A u(t_2)$; planar duplicates are checked more than once.
        """
        a, b = self.matrix, np.asarray(self.b)
        # per order n: (u, gamma / n) of each planar tree
        trees = [[], [(np.ones(self.stages), 1.0)]]
        for n in range(1, self.stages + 1):
            if any(abs(b @ u - 1 / (n * g)) > _TOLERANCE for u, g in trees[n]):
                return n - 1
            grown = [
                (u1 * (a @ u2), g1 * m * g2)
                for m in range(1, n + 1)
                for u1, g1 in trees[n + 1 - m]
                for u2, g2 in trees[m]
            ]
            trees.append(grown)
        return self.stages

    @functools.cached_property
    def recursion(self) -> tuple[tuple[float, float], ...] | None:
        r"""$(\gamma_i, \alpha_i)$ if the method needs one register beside the point of its stage.

        With $\delta_i$ the displacement from the start of the step to stage i (its end, for i = s):
        $\delta_0 = 0$, $\delta_{i+1} = \gamma_i\delta_i + \alpha_ihk_i$. This needs a tableau whose
        every row (b is the last) continues a multiple of the row above. None for other tableaus.
        """
        rows, pairs = [np.asarray(row) for row in self.rows], []
        for i in range(self.stages):
            above, row = rows[i], rows[i + 1]
            square = above @ above
            factor = float(above @ row[:i] / square) if square > 0 else 0.0
            if np.any(np.abs(row[:i] - factor * above) > _TOLERANCE):
                return None
            pairs.append((factor, float(row[i])))
        return tuple(pairs)

    @property
    def lags(self) -> int:
        """The largest number of stages by which a stage looks back."""
        behind = [i - j for i, row in enumerate(self.a) for j, weight in enumerate(row) if weight]
        return max(behind, default=0)

    @property
    def recent(self) -> list[list[float]]:
        """For every stage the weights of the slopes 1, 2, ..., `lags` stages ago."""
        back = range(1, self.lags + 1)
        return [[row[-lag] if lag <= i else 0.0 for lag in back] for i, row in enumerate(self.a)]

    @functools.cached_property
    def stability_polynomial(self) -> np.ndarray:
        r"""Coefficients of $R(z) = 1 + \sum_k (b^\top A^k 1) z^{k+1}$, ascending powers of `z`.

        One step on $\dot x = \lambda x$ multiplies `x` by $R(h\lambda)$.
        """
        a, u, coefficients = self.matrix, np.ones(self.stages), [1.0]
        for _ in range(self.stages):
            coefficients.append(float(np.asarray(self.b) @ u))
            u = a @ u
        return np.trim_zeros(np.array(coefficients), "b")

    @functools.cached_property
    def stability_limit(self) -> float:
        r"""$R$: the largest $x$ with $|R(-t)| \le 1$ for all $0 \le t \le x$.

        $R(-t)$ is evaluated through the stages, since the coefficients of a polynomial of high
        degree cancel. By Markov's inequality the limit is at most $2s^2$ for s stages. Between the
        points of a Chebyshev grid a polynomial is hardly larger than on them (Ehlich and Zeller,
        Math. Z. 86, 1964), so only peaks close to 1 are refined. Where $|R|$ only touches 1, as in
        an undamped Chebyshev method, stability continues.
        """
        angles = np.linspace(0, np.pi, _SAMPLES * self.stages + 1)[1:]
        high, first, size, grid = 2.02 * self.stages**2, 0, angles, angles
        while first < len(grid) - 1:  # until nothing below the upper end exceeds 1
            grid = high * (1 - np.cos(angles)) / 2
            size = self._amplification(grid)
            first = int(np.argmax(np.append(size[:-1] > 1 + _TOUCHING, True)))
            high = grid[first]
        low = grid[-2]
        middle = size[1:-1]
        near = (middle >= size[:-2]) & (middle >= size[2:]) & (middle > _NEAR)
        peaks = self._peaks(grid[:-2][near], grid[2:][near])
        beyond = np.flatnonzero(self._amplification(peaks) > 1 + _TOUCHING)
        if len(beyond):
            low, high = grid[:-2][near][beyond[0]], peaks[beyond[0]]
        for _ in range(_HALVINGS):
            half = (low + high) / 2
            stable = self._amplification(np.array([half]))[0] <= 1 + _ROUNDING
            low, high = (half, high) if stable else (low, half)
        return float(low)

    def _amplification(self, t: np.ndarray) -> np.ndarray:
        """$|R(-t)|$; infinite where it overflows."""
        k = np.zeros((self.stages, len(t)))
        with np.errstate(over="ignore", invalid="ignore"):
            for i, row in enumerate(self.a):
                k[i] = -t * (1 + np.asarray(row) @ k[:i])
            size = np.abs(1 + np.asarray(self.b) @ k)
        return np.where(np.isnan(size), np.inf, size)

    def _peaks(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Where $|R(-t)|$ is largest in each interval, in which it has one peak."""
        for _ in range(_HALVINGS):
            left, right = (2 * low + high) / 3, (low + 2 * high) / 3
            rises = self._amplification(left) < self._amplification(right)
            low, high = np.where(rises, left, low), np.where(rises, high, right)
        return (low + high) / 2


def _check_sum(name: str, values: np.ndarray, expected: float, why: str) -> None:
    if not abs(values.sum() - expected) <= _TOLERANCE:  # NaN is refused too
        raise ValueError(
            f"Inconsistent tableau: {name} sums to {values.sum():.12g}, not to "
            f"{expected:.12g} ({why})."
        )
