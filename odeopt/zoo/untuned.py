"""Optimizers without a learning rate, for mini-batches and for full batches."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from optax.contrib import MuonDimensionNumbers

from .. import solvers, stepsize
from ..checks import check_steps
from ..flows import (
    AbstractFlow,
    AdamFlow,
    AveragedFlow,
    KroneckerFlow,
    LogTime,
    RMSpropFlow,
    SpectralFlow,
    UnitFlow,
)
from ..flows.clock import Constant
from ..optimizer import LearningRate, Optimizer, ode_optimizer
from .matrix import grouped
from .options import Options, named


@named
def untuned(
    horizon: int | None = None,
    learning_rate: LearningRate | None = None,
    *,
    weight_decay: float = 0.4,
    muon_weight_dimension_numbers: Any = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Muon's flow with steps relative to the size of each matrix: no learning rate to tune.

    Three pieces. The *flow*: matrices follow `flows.SpectralFlow`, other leaves `flows.AdamFlow`
    (both with look-ahead, $b_1 = 0.9$, $b_2 = 0.98$). Each leaf moves in its *unit*
    (`flows.UnitFlow`), $\ell = \sqrt{s_0\max(s_0, \mathrm{RMS}(x))}$ with $s_0$ the initial size of
    a matrix, and 0.1 for other leaves. The step of a matrix is
    $W^+ = W - h(\ell U + \omega\,\mathrm{RMS}(U)W)$. It moves along its moment, *damped* where the
    gradient is noise,
    $U = 0.2\sqrt{\max(\text{rows}, \text{columns})}\,\hat M(\hat M^T\hat M + N^TN)^{-1/2}$ with
    $N = G - \hat M$, and *decays* in proportion to its movement. The step of another leaf is
    $x^+ = x - h\ell\,\hat m/(\sqrt{\hat v} + \epsilon)$. The decay $\omega$ grows from $w/3$ to $w$
    as the gradient norms of all matrices fall to a third of their largest values so far. The
    *clock*: with a horizon of $N$ steps `stepsize.horizon`, $h \le 12/\sqrt N$, always $h \le 1.5$
    and from 192 steps on $h \le 0.5$, with warm-up and linear decay; without one
    `stepsize.anytime`, $h \approx 3/\sqrt n$, from about 300 steps on $52/n$. The result is the
    *average* of the path with weights $n^{16}$, about the last seventeenth of it
    (`flows.AveragedFlow`).

    **Evaluate and save `odeopt.step_params(state, params)`**, the average. 1 gradient a step, and
    twice as many products of each matrix with itself as `muon`. Needs no `value_fn`.

    Why it need not be tuned: damping separates what all batches have in common from what only a few
    examples contribute, such as wrong labels. Decay bounds the weights once the data are fitted.
    With both, a constant that is wrong by a factor of 3 changes little (`odeopt benchmark`). For a
    problem without a generalization gap (a factorisation, a single pass over the data) a decay of
    0.1 ends at a lower loss. The state holds two copies of matrices and three of other parameters.

    Args:
      horizon: $N$, the number of steps that the run will take. It may be wrong by a factor of 2;
        after it the rate stays at its last, small value. None if it is unknown.
      learning_rate: None for the clock; a number, a schedule or a rule replaces it, in units of
        $\ell$.
      weight_decay: $w$, the largest decay of matrices, per unit of length: a matrix that moves in
        one direction grows to $1/w^2$ times its initial size.
      muon_weight_dimension_numbers: which leaves are matrices, and their axes: see `muon`. By
        default a leaf of two or more axes is a matrix of its last axis against all others, if both
        sides are longer than 1, also an embedding or the kernel of a convolution. Name the axes of
        stacked layers.

    Raises:
      ValueError: a horizon below 1, a negative decay, `horizon` together with `learning_rate`.

    References: Jordan (2024), "Muon"; the effect of its decay: arXiv:2506.15054; a decay that
    follows the gradient: AdamS, arXiv:2011.11152; the damped factor comes from one-sided Shampoo
    (arXiv:1802.09568), with one sample of the noise for the sum over steps; a distance in place of
    a rate: DoG, arXiv:2302.12022, with Muon arXiv:2605.18999; average: Shamir and Zhang (2013).
    `docs/research-log.md` lists the experiments.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt, optax
      >>> loss = lambda p: jnp.sum((jnp.ones((4, 3)) @ p["w"] + p["b"] - 1) ** 2)
      >>> params = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
      >>> opt = odeopt.untuned(horizon=100)
      >>> state, update = opt.init(params), jax.jit(opt.update)
      >>> for _ in range(100):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(loss(odeopt.step_params(state, params)) < 1e-3)
      True
    """
    if horizon is not None and learning_rate is not None:
        raise ValueError("horizon and learning_rate exclude each other: drop one of them.")
    if horizon is not None:
        check_steps(horizon=horizon)
        learning_rate = stepsize.horizon(horizon)
    elif learning_rate is None:
        learning_rate = stepsize.anytime()
    chosen = muon_weight_dimension_numbers
    axes = _last_axis_out if chosen is None else chosen
    matrices = SpectralFlow(0.9, eps=1e-20, consistent_rms=0.2, dimensions=axes, noise=1.0)
    # Squares of small gradients would underflow in 16 bits.
    others = AdamFlow(0.9, Constant(0.98, jnp.float32), eps=1e-10, nesterov=True)
    flow = grouped(UnitFlow(matrices, weight_decay, fading=3.0), UnitFlow(others), axes)
    return ode_optimizer(
        AveragedFlow(flow, beta=0.0, power=16.0), solvers.Lie(), learning_rate, **options
    )


@named
def log_time_adam(
    learning_rate: LearningRate | None = None,
    *,
    weight_decay: float = 0.0,
    first: float = 1e-3,
    gain: float = 2.0,
    rate: float = 10.0,
    eps: float = 1e-8,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Adam's flow in logarithmic time, with a step size that adapts: nothing to tune.

    One clock, $k_n = r/(n + r)$, runs everything: $v \leftarrow v + k(g^2 - v)$,
    $D = 1/(\sqrt v + \epsilon)$; $\ln h \leftarrow \ln h + 2kc$, where $c$ is the cosine of the
    angle between $Dg$ and the lag of the path behind its average. A running mean gives the length
    of $Dg$, and a negative $c$ is multiplied by 0.7 (`stepsize.angle`);
    $z \leftarrow z - h(Dg + wy)$; gradients are taken at $y$ and the result is the average $a$;
    both depend on how predictable the gradient is (`flows.AveragedFlow`). One gradient a step, the
    same form for full batches and mini-batches.

    **Evaluate and save `odeopt.step_params(state, params)`**, the average: `params` is the point of
    the next gradient. At equal gradients it ends ahead of tuned rivals with a constant rate, but
    not of those with a decaying rate, an average or a metric for matrices: `odeopt benchmark`.

    The clock on both moments is ADANA's (arXiv:2602.05298, with a tuned rate); for the controller
    see `stepsize.angle`, for the average `flows.AveragedFlow`. New here: clock and controller
    together, the two formulas for predictability, a default that is not tuned. The state holds two
    copies of the parameters, and every 16th entry along the last axis of leaves with 4,096 entries
    or more (every entry of smaller leaves). An update of 10 million parameters takes 5 to 8 times
    as long as that of `optax.adam` on a CPU, since it keeps the old state until it knows that the
    step is finite (`odeopt.guard`); a gradient usually costs far more. It compiles 5 times as
    long, with 300 leaves 13 times (in a checkout:
    `python -m benchmarks --only updates --only compile`).

    Args:
      learning_rate: None for the controller; a number, schedule or rule replaces it.
      weight_decay: $w$, decoupled, per unit of flow time.
      first: the size of the first step; the controller leaves it within a few steps.
      gain: gain of the controller.
      rate: $r$ of the clock.
      eps: $\epsilon$.

    Raises:
      ValueError: `first`, `gain` or `rate` that is not positive, a negative decay or `eps`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt, optax
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.log_time_adam()
      >>> state, update = opt.init(params), jax.jit(opt.update)
      >>> for _ in range(100):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(loss(odeopt.step_params(state, params)) < 1e-4)
      True
    """
    clock = LogTime(rate)
    base = RMSpropFlow(clock, eps, eps_in_sqrt=False)
    return _in_log_time(base, clock, learning_rate, weight_decay, first, gain, **options)


@named
def log_time_soap(
    learning_rate: LearningRate | None = None,
    *,
    weight_decay: float = 0.0,
    first: float = 1e-3,
    gain: float = 1.0,
    rate: float = 10.0,
    eps: float = 1e-8,
    precondition_frequency: int = 10,
    max_precond_dim: int | None = None,
    weight_dimension_numbers: Any = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""SOAP's flow in logarithmic time, with a step size that adapts: for full batches.

    `log_time_adam` with another metric: one clock, $k_n = r/(n + r)$, runs the second moments, the
    moments that define the bases, the average and the step size, $\ln h \leftarrow \ln h + kc$ with
    $c$ as in `stepsize.angle`. The direction is $Q_L(Q_L^HGQ_R/(\sqrt V + \epsilon))Q_R^H$, that of
    `flows.KroneckerFlow` without a first moment: the average (`flows.AveragedFlow`) is the
    momentum. All other leaves follow Adam's flow. One gradient a step, and the matrix products of
    `soap`, which take time where sides are long. Needs no `value_fn`.

    **Evaluate and save `odeopt.step_params(state, params)`**, the average: `params` is the point of
    the next gradient. Meant for gradients without noise and a loss to be made as small as possible:
    differential equations, least squares (`odeopt benchmark`). For mini-batches use `untuned`. The
    loss of a classifier that fits its data has no minimum: the step size grows until the loss
    vanishes in rounding, and is cut when a gradient jumps. The loss then rises for some steps.

    Args:
      learning_rate: None for the controller; a number, schedule or rule replaces it.
      weight_decay: $w$, decoupled, per unit of flow time.
      first: the size of the first step; the controller leaves it within a few steps.
      gain: gain of the controller.
      rate: $r$ of the clock.
      eps: $\epsilon$.
      precondition_frequency: steps from one refresh of the bases to the next.
      max_precond_dim: a longer side keeps the identity as its basis; None for 10,000.
      weight_dimension_numbers: which leaves are matrices, and their axes: see `muon`. By default as
        in `untuned`.
      **options: see `ode_optimizer`.

    Returns:
      An optax transformation; its state holds three copies of the parameters and a sixteenth, and
      two square matrices for each side of a matrix.

    Raises:
      ValueError: `first`, `gain` or `rate` that is not positive, a negative decay or `eps`, a
        frequency or a side below 1.

    References: `log_time_adam`; Vyas et al. (2024), "SOAP", arXiv:2409.11321; SOAP on
    physics-informed networks: arXiv:2502.00604. New here: the two together.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt, optax
      >>> loss = lambda p: jnp.sum((jnp.eye(3) @ p["w"] + p["b"] - jnp.ones((3, 2))) ** 2)
      >>> params = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
      >>> opt = odeopt.log_time_soap()
      >>> state, update = opt.init(params), jax.jit(opt.update)
      >>> for _ in range(100):
      ...     updates, state = update(jax.grad(loss)(params), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(loss(odeopt.step_params(state, params)) < 1e-4)
      True
    """
    clock = LogTime(rate)
    axes = _last_axis_out if weight_dimension_numbers is None else weight_dimension_numbers
    matrices = KroneckerFlow(
        0.0,
        clock,
        eps,
        precondition_frequency=precondition_frequency,
        max_precond_dim=max_precond_dim,
        dimensions=axes,
    )
    flow = grouped(matrices, AdamFlow(0.0, clock, eps), axes)
    return _in_log_time(flow, clock, learning_rate, weight_decay, first, gain, **options)


def _in_log_time(
    base: AbstractFlow,
    clock: LogTime,
    learning_rate: LearningRate | None,
    weight_decay: float,
    first: float,
    gain: float,
    **options: Unpack[Options],
) -> Optimizer:
    """Average a flow and, if no rate is given, choose its step size, on one clock."""
    if learning_rate is None:
        learning_rate = stepsize.angle(gain, clock=clock, first=first, remembers=False)
    flow = AveragedFlow(base, weight_decay=weight_decay, clock=clock)
    return ode_optimizer(flow, solvers.Lie(), learning_rate, **options)


def _last_axis_out(params: PyTree[Array]) -> PyTree[MuonDimensionNumbers | None]:
    """The last axis against all others, where that is a matrix with sides above 1."""

    def leaf(x: Array) -> MuonDimensionNumbers | None:
        if x.ndim < 2 or not 1 < x.shape[-1] < x.size:
            return None
        return MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

    return jax.tree.map(leaf, params)
