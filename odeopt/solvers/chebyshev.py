"""The coefficients of Runge-Kutta-Chebyshev methods."""

import functools
import math
from typing import NamedTuple

import numpy as np


class Coefficients(NamedTuple):
    r"""The coefficients of one Runge-Kutta-Chebyshev method, in float64.

    Attributes:
      first: $\tilde\mu_1$.
      rows: `(stages - 1, 5)`: $\mu_j, \nu_j, \tilde\mu_j, \tilde\gamma_j$ of stage $j = 2 \ldots s$
        and $c_{j-1}$, the time at which it evaluates the field.
      limit: the stability limit R on the real axis.
    """

    first: float
    rows: np.ndarray
    limit: float


@functools.lru_cache(maxsize=1024)
def coefficients(stages: int, order: int, damping: float) -> Coefficients:
    r"""The coefficients whose stage polynomials are $a_j + b_jT_j(w_0 - w_1z)$, $z = h\lambda$.

    Order 1: $b_j = 1/T_j(w_0)$, $w_1 = T_s/T_s'$, $w_0 = 1 + \eta/s^2$. Order 2:
    $b_j = T_j''/T_j'^2$, $w_1 = T_s'/T_s''$, $w_0 = 1 + \tfrac{40}{13}\eta/s^2$, so that at
    $\eta = 0.05$ it is the method of Sommeijer, Shampine and Verwer (J. Comput. Appl. Math. 88,
    1998). In both $a_j = 1 - b_jT_j(w_0)$.
    """
    w0 = 1 + (damping if order == 1 else damping * 40 / 13) / stages**2
    t, dt, ddt = _chebyshev(stages, w0)
    j = np.arange(stages + 1)
    if order == 1:
        w1 = t[-1] / dt[-1]
        b, a = 1 / t, np.zeros(stages + 1)
    else:
        w1 = dt[-1] / ddt[-1]
        b = np.where(j >= 2, ddt, 1.0) / np.where(j >= 2, dt, 1.0) ** 2
        b[0], b[1] = b[2], 1 / w0
        a = 1 - b * t
    mu, nu = 2 * w0 * b[2:] / b[1:-1], -b[2:] / b[:-2]
    slope = 2 * w1 * b[2:] / b[1:-1]
    start = -a[1:-1] * slope
    times = [0.0, b[1] * w1]
    for row in zip(mu, nu, slope, start, strict=True):
        times.append(row[0] * times[-1] + row[1] * times[-2] + row[2] + row[3])
    # The polynomial leaves [-1, 1] beyond w0 - w1 z = -edge.
    edge = w0
    if stages % 2 and order == 2:
        edge = math.cosh(math.acosh((1 + a[-1]) / b[-1]) / stages)
    rows = np.stack([mu, nu, slope, start, times[1:-1]], axis=1)
    rows.setflags(write=False)
    return Coefficients(float(b[1] * w1), rows, float((w0 + edge) / w1))


def _chebyshev(degree: int, x: float) -> np.ndarray:
    """Chebyshev polynomials at `x` and their first two derivatives, degrees 0 to `degree`."""
    table = np.zeros((3, degree + 1))
    table[:, 0], table[:, 1] = (1, 0, 0), (x, 1, 0)
    for j in range(2, degree + 1):
        table[:, j] = 2 * x * table[:, j - 1] - table[:, j - 2]
        table[1, j] += 2 * table[0, j - 1]
        table[2, j] += 4 * table[1, j - 1]
    return table
