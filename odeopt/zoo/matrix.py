"""Optimizers of matrices: Muon and SOAP by splitting, and two without a learning rate."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree
from optax.contrib import MuonDimensionNumbers

from .. import solvers, stepsize
from ..flows import (
    AdamFlow,
    AveragedFlow,
    GroupedFlow,
    KroneckerFlow,
    LogTime,
    SpectralFlow,
    UnitFlow,
)
from ..flows.axes import axes_of, is_axes
from ..flows.clock import Constant, as_decay
from ..flows.matrix import Preconditioning
from ..optimizer import LearningRate, Optimizer, ode_optimizer
from .adaptive import in_log_time
from .options import Options, named


@named
def muon(
    learning_rate: LearningRate,
    ns_coeffs: Any = "standard",
    ns_steps: int | None = 5,
    beta: float | LogTime = 0.95,
    eps: float = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable | None = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: float | LogTime = 0.9,
    adam_b2: float | LogTime = 0.999,
    adam_eps_root: float = 0.0,
    adam_weight_decay: optax.ScalarOrSchedule = 0.0,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: float | None = None,
    solver: solvers.Solver | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Muon by Lie's splitting of its flow: equal to `optax.contrib.muon`, with its arguments.

    Step of a matrix $W$ with gradient $G$: $M^+ = bM + (1-b)G$ (exact for a fixed gradient), then
    $W^+ = W - hs\,\mathrm{polar}(\hat M^+)$, $s = \sqrt{\max(1, \text{outputs}/\text{inputs})}$:
    steepest descent in the spectral norm, at unit speed. Leaves that are no matrices follow Adam's
    flow beside it. Order 1 on `flows.GroupedFlow` of `flows.SpectralFlow` and `flows.AdamFlow`, 1
    gradient a step and a few products of the matrices with themselves. Needs no `value_fn`.
    The state holds one copy of matrices and two of other parameters.

    Args:
      learning_rate: $h$: a number, a schedule of the number of steps, or a step-size rule.
      ns_coeffs: see `flows.SpectralFlow`.
      ns_steps: Newton-Schulz steps for the polar factor; None for an SVD.
      beta: $b$ in [0, 1), or `flows.LogTime(r)`.
      eps: of the Newton-Schulz steps, and Adam's.
      weight_decay: of matrices, decoupled; a number or a schedule.
      weight_decay_mask: a tree of booleans, or a function of the parameters: what of the matrices
        to decay.
      mu_dtype: dtype of the first moments.
      nesterov: look ahead in the first moments.
      adaptive: times the dual norm, see `flows.SpectralFlow`.
      preconditioning: see `optax.contrib.muon`.
      adam_b1: decay of Adam's first moment.
      adam_b2: decay of Adam's second moment.
      adam_eps_root: Adam's $\epsilon_r$.
      adam_weight_decay: decoupled, of leaves that are no matrices.
      adam_learning_rate: their step size, a number or a schedule; None for `learning_rate`.
      muon_weight_dimension_numbers: which leaves are matrices, and how: a tree (or a function of
        the parameters) of `optax.contrib.MuonDimensionNumbers`, None where a leaf is left to Adam.
        By default leaves of two axes are. Leave embeddings to Adam.
      consistent_rms: $c$ for $s = c\sqrt{\max(\text{inputs}, \text{outputs})}$; 0.2 makes learning
        rates those of AdamW.
      solver: another method for the same flow, such as `solvers.RK4()` (with `value_fn=`); None
        for `solvers.Lie()`. From the default start RK4 has order 3, as on Adam's flow (`rk_adam`).
      **options: those of `ode_optimizer`. `correction=2` needs `nesterov=False`, and is exact with
        `ns_steps=None`.

    Raises:
      ValueError: a decay outside [0, 1), or a number that is not positive as learning rate.

    References: Jordan (2024), "Muon"; Bernstein and Newhouse, arXiv:2409.20325.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.muon(0.02)
    """
    axes = _Axes(muon_weight_dimension_numbers)
    matrices = SpectralFlow(
        beta,
        ns_steps,
        ns_coeffs,
        preconditioning,
        eps,
        weight_decay,
        weight_decay_mask,
        nesterov,
        adaptive,
        consistent_rms,
        axes,
        mu_dtype,
    )
    others = AdamFlow(
        adam_b1,
        adam_b2,
        eps,
        adam_eps_root,
        adam_weight_decay,
        nesterov=nesterov,
        mu_dtype=mu_dtype,
    )
    paces = {} if adam_learning_rate is None else {"adam": adam_learning_rate}
    flow = GroupedFlow({"matrices": matrices, "adam": others}, _Labels(axes), paces)
    return ode_optimizer(flow, solver or solvers.Lie(), learning_rate, **options)


@named
def soap(
    learning_rate: LearningRate,
    b1: float | LogTime = 0.95,
    b2: float | LogTime = 0.95,
    eps: float = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable | None = None,
    *,
    nesterov: bool = False,
    precondition_frequency: int = 10,
    max_precond_dim: int | None = None,
    shampoo_beta: float | LogTime | None = None,
    weight_dimension_numbers: Any = None,
    solver: solvers.Solver | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""SOAP by Lie's splitting of its flow: Adam in the eigenbases of Shampoo's preconditioner.

    Step of a matrix $W$ with gradient $G$ and bases $Q_L$, $Q_R$: $M^+ = b_1M + (1-b_1)G$,
    $V^+ = b_2V + (1-b_2)|Q_L^HGQ_R|^2$ (exact for a fixed gradient), then
    $W^+ = W - hQ_L\frac{Q_L^H\hat M^+Q_R}{\sqrt{\hat V^+} + \epsilon}Q_R^H - hwW$. The bases are
    those of the moments of $GG^H$ and $G^HG$, refreshed every `precondition_frequency` steps by one
    power step and QR. Leaves that are no matrices follow Adam's flow beside it, with the same
    numbers. Order 1 on `flows.GroupedFlow` of `flows.KroneckerFlow` and `flows.AdamFlow`, 1
    gradient a step and 8 products of each matrix with squares of its sides. Where sides are longer
    than a batch these cost more than the gradient: on 784-512-512-10 and 2 CPU cores a training
    step takes 18 times as long as one with Adam in batches of 128, 3.7 times in batches of 1,024,
    and 1.02 times with `max_precond_dim=256` (`python -m benchmarks --only soap`). Needs no
    `value_fn`.

    The published algorithm, but for what follows. The first gradient counts in the moments, and its
    step is along its polar factor; there it makes the bases and nothing moves. The roots are
    divided by their weight before $\epsilon$ is added, as in Adam; there after. Decay acts on the
    parameters before the step; there on those after it. Entries that cannot be told from rounding
    do not move. A leaf of more than two axes is a stack of matrices; there every axis has a basis.

    Args:
      learning_rate: $h$; see `muon`.
      b1: decay of the first moments, in [0, 1); or `flows.LogTime(r)`.
      b2: decay of the second moments.
      eps: $\epsilon$.
      weight_decay: $w$, decoupled; a number or a schedule. That of the published code is 0.01.
      mask: a tree of booleans, or a function of the parameters: what to decay.
      nesterov: look ahead in the first moments.
      precondition_frequency: steps from one refresh of the bases to the next. With an optimizer
        that is mapped over by `jax.vmap` every step costs one.
      max_precond_dim: a longer side keeps the identity, at no cost; None for 10,000.
      shampoo_beta: decay of the moments that the bases are of; None for `b2`.
      weight_dimension_numbers: which leaves are matrices, and how: see `muon`.
      solver: another splitting, such as `solvers.Strang()`; None for `solvers.Lie()`.
      **options: those of `ode_optimizer`. `correction=2` cancels the drift between refreshes, and
        needs `nesterov=False`.

    Returns:
      An optax transformation; its state holds two copies of the parameters, and two squares of
      each side of a matrix. All of it but the first moment of other leaves is at least in float32.

    Raises:
      ValueError: a decay outside [0, 1), a frequency below 1, a solver that is no splitting.

    Reference: Vyas et al. (2024), arXiv:2409.11321.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.soap(3e-3)
    """
    b2 = as_decay(b2, jnp.float32)  # squares of small gradients would vanish in 16 bits
    axes = _Axes(weight_dimension_numbers)
    matrices = KroneckerFlow(
        b1,
        b2,
        eps,
        weight_decay,
        mask,
        nesterov,
        precondition_frequency,
        max_precond_dim,
        shampoo_beta,
        axes,
    )
    others = AdamFlow(b1, b2, eps, 0.0, weight_decay, mask, nesterov)
    flow = GroupedFlow({"matrices": matrices, "adam": others}, _Labels(axes))
    return ode_optimizer(flow, solver or solvers.Lie(), learning_rate, **options)


@named
def untuned(
    horizon: int | None = None,
    learning_rate: LearningRate | None = None,
    *,
    weight_decay: float = 0.03,
    muon_weight_dimension_numbers: Any = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Muon's flow with steps relative to the size of each matrix: no learning rate to tune.

    Three pieces. The *flow*: matrices follow `flows.SpectralFlow`, other leaves `flows.AdamFlow`
    (both with look-ahead, $b_1 = 0.9$, $b_2 = 0.98$), each leaf in its *unit* `flows.UnitFlow`,
    $\ell = \sqrt{s_0\max(s_0, \mathrm{RMS}(W))}$ with $s_0$ the size of a matrix at its start and
    0.1 of other leaves, matrices with weight decay: a step of a matrix is
    $W^+ = W - h(0.2\,\ell\sqrt{\max(\text{rows}, \text{columns})}\,\mathrm{polar}(\hat M) + wW)$,
    one of another leaf $x^+ = x - h\ell\,\hat m/(\sqrt{\hat v} + \epsilon)$. The *clock*: with a
    horizon of $N$ steps `stepsize.horizon`, $h \le 6.7/\sqrt N$ with warm-up and linear decay;
    without one `stepsize.anytime`, $h \approx 1.7/\sqrt n$. The result is the *average* of the
    path with weights $n^{16}$, about the last seventeenth of it (`flows.AveragedFlow`).

    **Evaluate and keep `odeopt.step_params(state, params)`**, the average. 1 gradient a step and a
    few products of the matrices with themselves. Needs no `value_fn`.

    It is the decay that makes its validation loss that of a tuned optimizer: a constant a third as
    large costs little, one three times as large up to half of the loss. For a problem without a
    generalization gap (a differential equation, a single pass over the data) 0.01 or 0 ends lower.
    The state holds two copies of matrices and three of other parameters.

    Args:
      horizon: $N$, the number of steps that the run will take. It may be wrong by a factor of 2;
        past it the rate stays that of the last step, which is small. None where it is not known.
      learning_rate: None for the clock; a number, a schedule or a rule replaces it, in units.
      weight_decay: $w$ of matrices, per unit of flow time.
      muon_weight_dimension_numbers: which leaves are matrices, and how: see `muon`. By default
        those of two or more axes, the last against all others, where both sides are longer than 1:
        embeddings and kernels of convolutions too. Name the axes of layers that are stacked.

    Raises:
      ValueError: a horizon below 1, a negative decay, `horizon` together with `learning_rate`.

    References: Jordan (2024), "Muon"; what its decay does: arXiv:2506.15054; a distance in place of
    a rate: DoG, arXiv:2302.12022, with Muon arXiv:2605.18999; average: Shamir and Zhang (2013).
    `docs/research-log.md` has what was tried.

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
    if learning_rate is None:
        learning_rate = stepsize.anytime() if horizon is None else stepsize.horizon(horizon)
    chosen = muon_weight_dimension_numbers
    axes = _Axes(_last_axis_out if chosen is None else chosen)
    matrices = SpectralFlow(0.9, eps=1e-20, consistent_rms=0.2, dimensions=axes)
    # Squares of small gradients would vanish in 16 bits.
    others = AdamFlow(0.9, Constant(0.98, jnp.float32), eps=1e-10, nesterov=True)
    flow = GroupedFlow(
        {"matrices": UnitFlow(matrices, weight_decay), "adam": UnitFlow(others)}, _Labels(axes)
    )
    return ode_optimizer(
        AveragedFlow(flow, beta=0.0, power=16.0), solvers.Lie(), learning_rate, **options
    )


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
    moments that the bases are of, the average and the step size, $\ln h \leftarrow \ln h + kc$ with
    $c$ as in `stepsize.angle`. The direction is $Q_L(Q_L^HGQ_R/(\sqrt V + \epsilon))Q_R^H$, that of
    `flows.KroneckerFlow` without a first moment: the average (`flows.AveragedFlow`) is the
    momentum. Leaves that are no matrices follow Adam's flow. One gradient a step, and the products
    of matrices of `soap`: seconds where sides are long. Needs no `value_fn`.

    **Evaluate and keep `odeopt.step_params(state, params)`**, the average: `params` is where the
    next gradient is taken. Meant for gradients without noise and a loss that one wants as low as it
    goes: differential equations, least squares (`odeopt benchmark`). For mini-batches take
    `untuned`. A classifier that fits its data has no minimum: the step size grows until the loss is
    lost in rounding, and is cut where a gradient jumps. The loss then rises for some steps.

    Args:
      learning_rate: None for the controller; a number, schedule or rule replaces it.
      weight_decay: $w$, decoupled, per unit of flow time.
      first: the size of the first step; the controller leaves it within a few steps.
      gain: of the controller.
      rate: $r$ of the clock.
      eps: $\epsilon$.
      precondition_frequency: steps from one refresh of the bases to the next.
      max_precond_dim: a longer side keeps the identity as its basis; None for 10,000.
      weight_dimension_numbers: which leaves are matrices, and how: see `muon`. By default as in
        `untuned`.
      **options: those of `ode_optimizer`.

    Returns:
      An optax transformation; its state holds three copies of the parameters and a sixteenth, and
      two squares of each side of a matrix.

    Raises:
      ValueError: a number that is not positive, or a frequency below 1.

    References: `log_time_adam`; Vyas et al. (2024), "SOAP", arXiv:2409.11321; SOAP on
    physics-informed networks: arXiv:2502.00604. Ours: the two together.

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
    chosen = weight_dimension_numbers
    axes = _Axes(_last_axis_out if chosen is None else chosen)
    matrices = KroneckerFlow(
        0.0,
        clock,
        eps,
        precondition_frequency=precondition_frequency,
        max_precond_dim=max_precond_dim,
        dimensions=axes,
    )
    flow = GroupedFlow({"matrices": matrices, "adam": AdamFlow(0.0, clock, eps)}, _Labels(axes))
    return in_log_time(flow, clock, learning_rate, weight_decay, first, gain, **options)


@dataclasses.dataclass(frozen=True)
class _Axes:
    """How every leaf is read as matrices; None for a leaf that is none."""

    chosen: Any

    def __call__(self, params: PyTree[Array]) -> PyTree[MuonDimensionNumbers | None]:
        if self.chosen is None:
            return jax.tree.map(lambda x: MuonDimensionNumbers() if x.ndim == 2 else None, params)
        return axes_of(self.chosen, params)


@dataclasses.dataclass(frozen=True)
class _Labels:
    """Which flow each leaf follows."""

    axes: _Axes

    def __call__(self, params: PyTree[Array]) -> PyTree[str]:
        return jax.tree.map(
            lambda axes: "adam" if axes is None else "matrices", self.axes(params), is_leaf=is_axes
        )


def _last_axis_out(params: PyTree[Array]) -> PyTree[MuonDimensionNumbers | None]:
    """The last axis against all others, where that makes a matrix with sides above 1."""

    def leaf(x: Array) -> MuonDimensionNumbers | None:
        if x.ndim < 2 or not 1 < x.shape[-1] < x.size:
            return None
        return MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1)

    return jax.tree.map(leaf, params)
