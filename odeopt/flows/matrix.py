r"""Flows that treat a matrix of weights as a matrix.

Steepest descent in the spectral norm moves along the polar factor $UV^T$ of the gradient
$G = USV^T$, as Adam's flow moves along its sign: at unit speed, whatever the size of $G$.
"""

import functools
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Inexact, PyTree
from optax.contrib import MuonDimensionNumbers

from ..arrays import Scalar, wide_dtype
from ..checks import check, check_flags, check_least, check_positive, is_zero, whole_from
from ..objective import Objective
from ..sums import scaled
from .adaptive import Moments
from .axes import Stack, each
from .clock import as_decay, by_step, check_decay, moment_like, real
from .flow import AbstractFlow, Share, State
from .moments import AlongMoment, aged, averaged, divided, relaxation, settled

DION = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""A polynomial of its own for each Newton-Schulz step: optax's preset "dion"."""
PRESETS: dict[str, Any] = {"standard": (3.4445, -4.7750, 2.0315), "dion": DION}

Preconditioning = Literal["frobenius", "spectral", "aol", "schatten"]


def _triples(given: Any) -> Any:
    """A preset, or numbers, as hashable tuples; an unknown name is returned unchanged."""
    if isinstance(given, str):
        return PRESETS.get(given, given)
    rows = np.asarray(given)
    return tuple(map(tuple, rows.tolist())) if rows.ndim == 2 else tuple(rows.ravel().tolist())


class SpectralFlow(AlongMoment, AbstractFlow):
    r"""Muon's flow: $\dot W = -s\,\mathrm{polar}(\hat M) - wW$ for every leaf, a matrix $W$.

    $\tau\dot M = G - M$ with $\tau = -h/\ln b$; $\hat M$ is $M$ with bias correction, and
    $s = \sqrt{\max(1, \text{outputs}/\text{inputs})}$. A learning rate is the spectral length of a
    step. Once the moment has settled, $\dot W = -s\,\mathrm{polar}(G)$.

    The parts, each solved exactly apart from the decay, are `moments` and `drift`, as in Adam's
    flow. Composed in this order they are the part of `optax.contrib.muon` that moves matrices.

    Args:
      b1: the fraction of the moment that a step keeps, in [0, 1); or `LogTime(r)`.
      ns_steps: Newton-Schulz steps that approximate the polar factor: singular values above
        about 0.003 of the norm end between about 0.7 and 1.2, not at 1. None for the exact polar
        factor, by an SVD. Its derivative along $N$, which counter-terms need, is
        $U(A/(s_i + s_j))V^T$ with $A = U^TNV - V^TN^TU$; there singular values below `floor` times
        the largest are raised to that value.
      ns_coeffs: the coefficients of the steps: one triple, one for each step, "standard" or "dion".
      preconditioning: the divisor of a matrix before these steps, see `optax.contrib.muon`.
      eps: added to this divisor.
      weight_decay: $w$, decoupled: a number, or a schedule of the number of steps.
      mask: the leaves that decay: a tree of booleans like the parameters, or a function of them.
      nesterov: look ahead in the moment. Then both parts use the gradient.
      adaptive: multiply by the dual norm $\langle\hat M, \mathrm{polar}(\hat M)\rangle$: steepest
        descent of a quadratic model, which slows down where the gradient fades. As in optax, all
        matrices of a leaf share this number.
      consistent_rms: $c$ in $s = c\sqrt{\max(\text{inputs}, \text{outputs})}$, which gives the
        updates of all matrices the same root mean square; None for the $s$ above.
      dimensions: which axes of a leaf make the matrix (`optax.contrib.MuonDimensionNumbers`, one
        for all leaves, a tree of them, or a function of the parameters); all others are batches of
        matrices. For a convolution kernel: `MuonDimensionNumbers((0, 1, 2), 3)`.
      mu_dtype: dtype of the moment; None for that of the parameters.
      noise: $\tau \ge 0$, the strength of a damping of noise. The noise is $N = G - \hat M$, the
        gradient minus the moment that includes it. $\mathrm{polar}(\hat M)$ becomes
        $\hat M(\hat M^H\hat M + \tau^2N^HN)^{-1/2}$ (for a wide matrix, its transpose), a block of
        the polar factor of $\hat M$ and $\tau N$ stacked along the longer side. A direction without
        noise moves at unit speed, one whose noise is $\sigma$ times its mean at
        $1/\sqrt{1 + \tau^2\sigma^2}$. Needs `nesterov`, uses one gradient, and takes up to twice as
        long as `polar`.
      floor: the least singular value, relative to the largest, in the derivative (see `ns_steps`).

    Raises:
      ValueError: `b1` outside [0, 1), a negative `weight_decay` or `noise`, `noise` without
        `nesterov`, `ns_steps` that is no whole number, `ns_coeffs` that are no triples,
        `consistent_rms` that is not positive; in `init`, a leaf that is no matrix.
    """

    b1: Any = eqx.field(converter=as_decay, default=0.95)
    ns_steps: Any = 5  # may be traced, as by `inject_hyperparams`
    ns_coeffs: Any = eqx.field(static=True, converter=_triples, default="standard")
    preconditioning: Preconditioning = eqx.field(static=True, default="frobenius")
    eps: float = eqx.field(converter=real, default=1e-8)
    weight_decay: Any = eqx.field(converter=by_step, default=0.0)
    mask: Any = eqx.field(static=True, default=None)
    nesterov: bool = eqx.field(static=True, default=True)
    adaptive: bool = eqx.field(static=True, default=False)
    consistent_rms: float | None = eqx.field(converter=real, default=None)
    dimensions: Any = eqx.field(static=True, default=MuonDimensionNumbers())
    mu_dtype: Any = eqx.field(static=True, default=None)
    floor: float = eqx.field(static=True, default=1e-3)
    noise: float = eqx.field(converter=real, default=0.0)

    def __check_init__(self) -> None:
        check_decay(b1=self.b1)
        check_least(0, weight_decay=self.weight_decay)
        check_flags(nesterov=self.nesterov, adaptive=self.adaptive)
        if self.ns_steps is not None:
            check(whole_from(0), "ns_steps", self.ns_steps, "a whole number, such as 5, or None")
        if self.consistent_rms is not None:
            check_positive(consistent_rms=self.consistent_rms)
        check_least(0, eps=self.eps, floor=self.floor, noise=self.noise)
        if self._damps and not self.nesterov:
            raise ValueError("noise needs the gradient beside the moment: pass nesterov=True.")
        if np.shape(self.ns_coeffs)[-1:] != (3,):
            raise ValueError(
                f"ns_coeffs is {self.ns_coeffs!r}; it must be a triple, a triple for each step, or "
                f"one of {', '.join(map(repr, PRESETS))}."
            )

    def init(self, params: PyTree[Array]) -> Moments:
        """A zero first moment, no second one. Memory: one copy of the parameters."""
        each(self.dimensions, lambda leaf, stack: None, params)  # refuses a leaf that is no matrix
        return Moments(moment_like(params, self.b1, self.mu_dtype), (), jnp.zeros([], float))

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """`(-h (s polar(m) + w W), -(G - m) ln b)`, damped with `noise`; the age grows by 1."""
        params, aux = z
        grads = objective.here(params)
        mean = settled(aux.mu, self.b1, aux.age, grads)
        moment = relaxation(aux.mu, grads, self.b1.forgetting(aux.age))
        along = self._damped(mean, mean, grads) if self._damps else self.along(mean, aux)
        along = self.decayed(along, params, aux.age)
        return self.drift(along, params, aux.age, h), Moments(moment, (), jnp.ones_like(aux.age))

    def relaxed(self, grads: PyTree[Array], aux: Moments, fraction: Share) -> Moments:
        moment = averaged(aux.mu, grads, self.b1.retained(aux.age, fraction))
        return Moments(moment, (), aux.age + fraction)

    def along(self, mean: PyTree[Array], aux: Any) -> PyTree[Array]:
        """`s polar(mean)`."""
        return each(self.dimensions, self._along, mean)

    def direction(self, params: PyTree[Array], aux: Moments, objective: Objective) -> PyTree[Array]:
        """`s polar(m)`, damped by the difference of gradient and moment."""
        mean = self.mean(params, aux, objective)
        if not self._damps:
            return self.along(mean, aux)
        return self._damped(mean, divided(aux.mu, self.b1.weight(aux.age)), objective.here(params))

    @property
    def _damps(self) -> bool:
        return not is_zero(self.noise)

    def _damped(
        self, mean: PyTree[Array], seen: PyTree[Array], grads: PyTree[Array]
    ) -> PyTree[Array]:
        noise = jax.tree.map(jnp.subtract, grads, seen)
        return each(self.dimensions, self._along, mean, noise)

    def aged(self, aux: Moments, grads: PyTree[Array], back: PyTree[Array]) -> PyTree[Array]:
        """The moment changes by its mean age times the change of the gradient."""
        self.check_off(nesterov=self.nesterov)  # this excludes noise too
        return Moments(aged(aux.mu, back, self.b1, aux.age), (), None)  # type: ignore[arg-type]

    def descent(self, z: State, objective: Objective, *, seen: bool = False) -> PyTree[Array]:
        """The polar factor of the gradient; the moment is not used."""
        return self.along(objective.here(z[0]), z[1])

    def _along(self, mean: Array, stack: Stack, noise: Array | None = None) -> Array:
        """The direction of one leaf."""
        if not mean.size:
            return mean
        matrices = stacked = stack.matrices(mean)
        _, inputs, outputs = stack.shape
        if noise is not None:
            beside = scaled(self.noise, stack.matrices(noise))
            stacked = jnp.concatenate([matrices, beside], axis=1 if inputs >= outputs else 2)
        if self.ns_steps is None:
            found = jax.vmap(lambda m: polar(m, self.floor))(stacked)
        else:
            found = self._newton_schulz(stacked)
        found = found[:, :inputs, :outputs]
        if self.adaptive:
            found = jnp.sum(matrices.conj() * found) * found
        if self.consistent_rms is None:
            scale = jnp.sqrt(jnp.maximum(1, outputs / inputs))
        else:
            scale = jnp.sqrt(jnp.maximum(inputs, outputs)) * self.consistent_rms
        return scale * stack.leaf(found, mean)

    def _newton_schulz(self, matrices: Array) -> Array:
        eps = jnp.maximum(self.eps, jnp.finfo(matrices.dtype).tiny)  # in float16 1e-8 is 0
        # optax's iteration, with a moment that keeps nothing
        steps = optax.contrib.scale_by_muon(
            self.ns_coeffs,
            self.ns_steps,
            beta=0.0,
            eps=eps,
            nesterov=False,
            preconditioning=self.preconditioning,
            weight_dimension_numbers=MuonDimensionNumbers(1, 2),
        )
        with jax.numpy_dtype_promotion("standard"):  # optax computes beta**count
            return steps.update(matrices, steps.init(matrices))[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def polar(matrix: Inexact[Array, "m n"], floor: float) -> Inexact[Array, "m n"]:
    r"""The polar factor $UV^T$ of $USV^T$, the nearest matrix with orthonormal rows or columns.

    Where singular values vanish it is not unique and its derivative is not bounded. Here directions
    with a singular value of 0 (to rounding) are left out, so the polar factor of 0 is 0, and the
    derivative raises singular values to at least `floor` times the largest. Real or complex.
    """
    u, _, v, known = _factors(matrix)
    return (u * known) @ v


@polar.defjvp
def _polar_derivative(floor: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    u, s, v, known = _factors(primals[0])
    tangent = tangents[0]
    s = jnp.maximum(s, floor * jnp.max(s, initial=0.0))
    safe = jnp.where(s == 0, 1.0, s)
    inner = u.conj().T @ tangent @ v.conj().T
    turn = (inner - inner.conj().T) / (safe[:, None] + safe[None, :])
    left = tangent @ v.conj().T - u @ inner  # the part outside the columns of u
    right = u.conj().T @ tangent - inner @ v  # the part outside the rows of v
    change = u @ turn @ v + (left / safe) @ v + (u / safe) @ right
    return (u * known) @ v, jnp.where(jnp.any(known), change, 0.0)


def _factors(matrix: Array) -> tuple[Array, Array, Array, Array]:
    u, s, v = jnp.linalg.svd(matrix.astype(wide_dtype(matrix.dtype)), full_matrices=False)
    tiny = max(matrix.shape) * jnp.finfo(s.dtype).eps * jnp.max(s, initial=0.0)
    u, v = u.astype(matrix.dtype), v.astype(matrix.dtype)
    return u, s.astype(jnp.finfo(matrix.dtype).dtype), v, (s > tiny).astype(matrix.dtype)
