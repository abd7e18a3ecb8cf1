r"""SOAP's flow: Adam's in the eigenbases of a Kronecker-factored second moment."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree
from optax.contrib import MuonDimensionNumbers

from ..arguments import is_absent
from ..arrays import Scalar, wide_dtype
from ..checks import check, check_counts, check_flags, check_least, whole_from
from ..loops import cond
from ..sums import widened
from .adaptive import adam_direction
from .axes import Stack, each
from .clock import Decay, as_decay, by_step, check_decay, moment_like, real
from .flow import AbstractFlow, Share
from .moments import (
    AlongMoment,
    abs_square,
    aged,
    averaged,
    divided,
    squares_change,
)

LARGEST = 10_000  # as in the published code; a side of 10,000 keeps two matrices of 400 MB
_AXIS = {"left": -2, "right": -1}


class Metric(NamedTuple):
    """The scaling of the leaves, each a stack of matrices; at least in single precision.

    Each field is a tree like the parameters or, within a step, the node of one leaf.

    Attributes:
      nu: the second moment in the eigenbases, (batches, inputs, outputs).
      factors: the moments of $GG^H$ ("left") and $G^HG$ ("right"), (batches, side, side);
        `optax.MaskedNode()` for a side that keeps the identity.
      bases: their eigenvectors, in columns; the identity before the first gradient.
    """

    nu: PyTree[Array]
    factors: dict[str, PyTree[Array]]
    bases: dict[str, PyTree[Array]]


class Kronecker(NamedTuple):
    """The auxiliary variables of SOAP's flow.

    Attributes:
      mu: the first moment, a tree like the parameters, at least in single precision.
      metrics: how the leaves are scaled.
      age: steps since all were zero, as a real number.
    """

    mu: PyTree[Array]
    metrics: Metric
    age: Scalar


class KroneckerFlow(AlongMoment, AbstractFlow):
    r"""SOAP's flow: $\dot W = -Q_L\,u\,Q_R^H - wW$ for every leaf, a matrix $W$.

    In the eigenbases $Q_L$, $Q_R$ of the moments $L$ of $GG^H$ and $R$ of $G^HG$ it is Adam's flow:
    $u = M'/(\sqrt V + \epsilon)$ with $M' = Q_L^HMQ_R$, $\tau_1\dot M = G - M$ and
    $\tau_2\dot V = |Q_L^HGQ_R|^2 - V$, with bias correction of $M$ and $V$. An entry of $M'$ that
    is 0 to rounding counts as 0; otherwise its own size would scale it to 1.

    Every `precondition_frequency` steps a power step and a QR decomposition refresh the bases,
    $Q \leftarrow \mathrm{qr}(LQ)$; in between they are constant. The columns of $Q$ are sorted by
    $\mathrm{diag}(Q^HLQ)$, and those of $V$ with them. The first bases are the singular vectors of
    the first gradient that is not 0, so that the first step is along its polar factor $UV^H$, as in
    Muon. With exact $Q$ the flow commutes with rotations $W \to AWB$.

    The parts, each solved exactly apart from the decay, are `moments` and `drift`, as in Adam's
    flow. Because the bases jump, the flow has no field for a Runge-Kutta method.

    The arguments are those of `odeopt.soap`, apart from `dimensions`. With `nesterov` both parts
    use the gradient.

    Args:
      max_precond_dim: a longer side keeps the identity as its basis, and so does one of length 1;
        None for 10,000. With 1 this is Adam's flow.
      dimensions: which axes of a leaf make the matrix, see `flows.SpectralFlow`.

    Raises:
      ValueError: a decay outside [0, 1), a negative `eps` or `weight_decay`, a frequency or a side
        below 1; in `init`, a leaf that is no matrix.

    Reference: Vyas et al. (2024), "SOAP", arXiv:2409.11321.
    """

    b1: Any = eqx.field(converter=as_decay, default=0.95)
    b2: Any = eqx.field(converter=as_decay, default=0.95)
    eps: float = eqx.field(converter=real, default=1e-8)
    weight_decay: Any = eqx.field(converter=by_step, default=0.0)
    mask: Any = eqx.field(static=True, default=None)
    nesterov: bool = eqx.field(static=True, default=False)
    precondition_frequency: Any = eqx.field(converter=real, default=10)
    max_precond_dim: int | None = eqx.field(static=True, default=None)
    shampoo_beta: Any = eqx.field(converter=as_decay, default=None)
    dimensions: Any = eqx.field(static=True, default=MuonDimensionNumbers())

    no_field: ClassVar[str] = "its bases jump"

    def __check_init__(self) -> None:
        check_decay(b1=self.b1, b2=self.b2, shampoo_beta=self._factors)
        check_least(0, eps=self.eps, weight_decay=self.weight_decay)
        check_flags(nesterov=self.nesterov)
        every = self.precondition_frequency
        check(whole_from(1), "precondition_frequency", every, "a whole number of steps, such as 10")
        if self.max_precond_dim is not None:
            check_counts(max_precond_dim=self.max_precond_dim)

    @property
    def _factors(self) -> Decay:
        return self.b2 if self.shampoo_beta is None else self.shampoo_beta

    def init(self, params: PyTree[Array]) -> Kronecker:
        """Zero moments and identity bases.

        Memory: two copies of the parameters, and two square matrices for each side with a basis.
        """
        largest = LARGEST if self.max_precond_dim is None else self.max_precond_dim

        def leaf(p: Array, stack: Stack) -> Metric:
            zeros = stack.matrices(jnp.zeros_like(p, self.b2.dtype(wide_dtype(p.dtype))))
            factors = {
                side: _square(zeros, side)  # split over devices like the leaf
                for side, axis in _AXIS.items()
                if p.size and 1 < stack.shape[axis] <= largest
            }
            bases = {
                k: zero + jnp.eye(zero.shape[1], dtype=zero.dtype)[None]
                for k, zero in factors.items()
            }
            return Metric(zeros, factors, bases)

        moment = jax.tree.map(lambda p: moment_like(p, self.b1, wide_dtype(p.dtype)), params)
        metrics = _by_field(each(self.dimensions, leaf, params), params)
        return Kronecker(moment, metrics, jnp.zeros([], float))

    def relaxed(self, grads: PyTree[Array], aux: Kronecker, fraction: Share) -> Kronecker:
        """Refresh the bases if this is due, then update the moments."""
        grads = widened(grads)  # both moments must see the same rounding
        # The refresh uses past gradients only, so no gradient enters V in bases that it changed.
        due = (aux.age > 0) & (jnp.round(aux.age) % self.precondition_frequency == 0)
        metrics = cond(
            due,
            lambda metrics: jax.tree.map(lambda _, metric: _refreshed(metric), grads, metrics),
            lambda metrics: metrics,
            _by_leaf(aux.metrics, grads),
        )
        clocks = self.b1, self.b2, self._factors
        b1, b2, b = (clock.retained(aux.age, fraction) for clock in clocks)

        def leaf(g: Array, stack: Stack, metric: Metric) -> Metric:
            return _seen(metric, stack.matrices(g), b2, b)

        mu = _averaged(aux.mu, grads, b1)
        metrics = _by_field(each(self.dimensions, leaf, grads, metrics), grads)
        return Kronecker(mu, metrics, aux.age + fraction)

    def aged(self, aux: Kronecker, grads: PyTree[Array], back: PyTree[Array]) -> PyTree[Array]:
        """Each moment changes by its mean age times the change of the quantity it averages.

        The bases do not change: this is Adam's counter-term in the eigenbases.
        """
        self.check_off(nesterov=self.nesterov)

        def leaf(g: Array, stack: Stack, change: Array, metric: Metric) -> PyTree[Array]:
            seen, changed = (
                _turned(stack.matrices(x.astype(metric.nu.dtype)), metric.bases)
                for x in (g, change)
            )
            return aged(metric.nu, squares_change(seen, changed), self.b2, aux.age)

        nu = each(self.dimensions, leaf, grads, back, _by_leaf(aux.metrics, grads))
        metrics = jax.tree.map(lambda _: None, aux.metrics)._replace(nu=nu)
        mu = aged(aux.mu, back, self.b1, aux.age)
        return Kronecker(mu, metrics, None)  # type: ignore[arg-type]

    def along(self, mean: PyTree[Array], aux: Kronecker) -> PyTree[Array]:
        """`Q_L u Q_R^H`; 0 before the first gradient."""
        total = self.b2.weight(aux.age)

        def leaf(m: Array, stack: Stack, metric: Metric) -> Array:
            inside = _turned(stack.matrices(m.astype(metric.nu.dtype)), metric.bases)
            if metric.bases:
                inside = _known(inside)
            inside = adam_direction(inside, divided(metric.nu, total), self.eps, 0.0)
            back = _turned(inside, jax.tree.map(_adjoint, metric.bases))
            return stack.leaf(back, m).astype(m.dtype)

        return each(self.dimensions, leaf, mean, _by_leaf(aux.metrics, mean))


def _by_leaf(metrics: Metric, tree: PyTree[Array]) -> PyTree[Metric]:
    """A tree like `tree` with one `Metric` for each leaf."""

    def known(_: Array, *sides: Any) -> dict[str, Array]:
        return {side: x for side, x in zip(_AXIS, sides, strict=True) if not is_absent(x)}

    factors, bases = (
        jax.tree.map(known, tree, *(trees[side] for side in _AXIS))
        for trees in (metrics.factors, metrics.bases)
    )
    return jax.tree.map(lambda _, *fields: Metric(*fields), tree, metrics.nu, factors, bases)


def _by_field(metrics: PyTree[Metric], tree: PyTree[Array]) -> Metric:
    """The inverse of `_by_leaf`."""

    def of_all(read: Callable[[Metric], Any]) -> PyTree[Array]:
        return jax.tree.map(lambda _, metric: read(metric), tree, metrics)

    def side(of: Callable[[Metric], dict[str, Array]], name: str) -> PyTree[Array]:
        return of_all(lambda metric: of(metric).get(name, optax.MaskedNode()))

    factors, bases = (
        {name: side(attrgetter(field), name) for name in _AXIS} for field in ("factors", "bases")
    )
    return Metric(of_all(attrgetter("nu")), factors, bases)


def _seen(metric: Metric, g: Array, kept: Any, kept_of_factors: Any) -> Metric:
    """The metric after the gradient `g`, a stack of matrices."""
    factors = {
        side: _averaged(factor, _square(g, side), kept_of_factors)
        for side, factor in metric.factors.items()
    }
    bases = metric.bases
    if bases:
        first = ~_any(metric.factors) & _any(factors)
        bases = cond(first, _singular_vectors, lambda g, bases: bases, g, bases)
    square = abs_square(_turned(g, bases))
    return Metric(_averaged(metric.nu, square, kept), factors, bases)


def _averaged(moment: PyTree[Array], seen: PyTree[Array], kept: Any) -> PyTree[Array]:
    """`averaged` in the moment's own dtype, since `kept` may have a wider one."""
    found = averaged(moment, seen, kept)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), found, moment)


def _square(g: Array, side: str) -> Array:
    """`G G^H` or `G^H G`."""
    return _product(g, _adjoint(g)) if side == "left" else _product(_adjoint(g), g)


def _any(factors: dict[str, Array]) -> Bool[Array, ""]:
    """Whether a nonzero gradient has been seen: the trace of a factor is not 0."""
    factor = next(iter(factors.values()))
    return jnp.sum(jnp.trace(factor, axis1=-2, axis2=-1)) != 0


def _singular_vectors(g: Array, bases: dict[str, Array]) -> dict[str, Array]:
    """The eigenvectors of both factors of a gradient; an SVD is more accurate than its square."""
    u, _, vh = jnp.linalg.svd(g)
    found = {"left": u, "right": _adjoint(vh)}
    return {side: found[side] for side in bases}


def _refreshed(metric: Metric) -> Metric:
    """Bases one power step closer to the eigenvectors of their factors."""
    nu, bases = metric.nu, dict(metric.bases)
    for side, basis in metric.bases.items():
        moved = _product(metric.factors[side], basis)
        order = jnp.argsort(-jnp.real(jnp.sum(basis.conj() * moved, axis=-2)), axis=-1)
        bases[side] = jnp.linalg.qr(jnp.take_along_axis(moved, order[:, None], axis=-1))[0]
        axis = _AXIS[side]
        nu = jnp.take_along_axis(nu, jnp.expand_dims(order, -3 - axis), axis=axis)
    return Metric(nu, metric.factors, bases)


def _turned(matrices: Array, bases: dict[str, Array]) -> Array:
    """`Q_L^H X Q_R`."""
    if "left" in bases:
        matrices = _product(_adjoint(bases["left"]), matrices)
    return _product(matrices, bases["right"]) if "right" in bases else matrices


def _known(matrices: Array) -> Array:
    """The matrices with 0 for every entry that is 0 to rounding, relative to the largest."""
    size = jnp.abs(matrices)
    largest = jnp.max(size, axis=(-2, -1), keepdims=True, initial=0.0)
    rounding = sum(matrices.shape[-2:]) ** 0.5 * jnp.finfo(matrices.dtype).eps
    return jnp.where(size < rounding * largest, 0, matrices)


def _product(a: Array, b: Array) -> Array:
    """`a @ b` in full precision, so that bases stay orthogonal."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _adjoint(matrices: Array) -> Array:
    return jnp.swapaxes(matrices.conj(), -2, -1)
