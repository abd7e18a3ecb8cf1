"""Optimizers for matrices: Muon and SOAP by splitting."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree
from optax.contrib import MuonDimensionNumbers

from .. import solvers
from ..checks import check_least, check_positive
from ..flows import AbstractFlow, AdamFlow, GroupedFlow, KroneckerFlow, LogTime, SpectralFlow
from ..flows.axes import axes_of, is_axes
from ..flows.clock import as_decay, by_step, check_decay
from ..flows.matrix import Preconditioning
from ..optimizer import LearningRate, Optimizer, ode_optimizer
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
    steepest descent in the spectral norm, at unit speed. All other leaves follow Adam's flow in the
    same step. Order 1 on `flows.GroupedFlow` of `flows.SpectralFlow` and `flows.AdamFlow`, 1
    gradient a step and a few products of each matrix with itself. Needs no `value_fn`. The state
    holds one copy of matrices and two of other parameters.

    Args:
      learning_rate: $h$: a number, a schedule of the number of steps, or a step-size rule.
      ns_coeffs: see `flows.SpectralFlow`.
      ns_steps: Newton-Schulz steps for the polar factor; None for an SVD.
      beta: $b$ in [0, 1), or `flows.LogTime(r)`.
      eps: $\epsilon$ of the Newton-Schulz steps and of Adam.
      weight_decay: decoupled weight decay of matrices; a number or a schedule.
      weight_decay_mask: which matrices to decay: a tree of booleans, or a function of the
        parameters that returns one.
      mu_dtype: dtype of the first moments.
      nesterov: look ahead in the first moments.
      adaptive: multiply the direction by its dual norm, see `flows.SpectralFlow`.
      preconditioning: see `optax.contrib.muon`.
      adam_b1: decay of Adam's first moment.
      adam_b2: decay of Adam's second moment.
      adam_eps_root: Adam's $\epsilon_r$.
      adam_weight_decay: decoupled weight decay of all other leaves.
      adam_learning_rate: step size of all other leaves, a number or a schedule; None for
        `learning_rate`.
      muon_weight_dimension_numbers: which leaves are matrices, and their axes: a tree (or a
        function of the parameters) of `optax.contrib.MuonDimensionNumbers`, None for a leaf of
        Adam. By default leaves of two axes are matrices. Leave embeddings to Adam.
      consistent_rms: $c$ for $s = c\sqrt{\max(\text{inputs}, \text{outputs})}$; 0.2 makes learning
        rates those of AdamW.
      solver: another method for the same flow, such as `solvers.RK4()` (with `value_fn=`); None
        for `solvers.Lie()`. From the default start RK4 has order 3, as on Adam's flow (`rk_adam`).
      **options: see `ode_optimizer`. `correction=2` needs `nesterov=False`, and is exact with
        `ns_steps=None`.

    Raises:
      ValueError: a decay outside [0, 1), a negative weight decay, `ns_steps` that is not a whole
        number, or a number that is not positive as learning rate, also of Adam.

    References: Jordan (2024), "Muon"; Bernstein and Newhouse, arXiv:2409.20325.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.muon(0.02)
    """
    # The flows have other names for these.
    check_decay(beta=as_decay(beta), adam_b1=as_decay(adam_b1), adam_b2=as_decay(adam_b2))
    check_least(0, adam_eps_root=adam_eps_root, adam_weight_decay=by_step(adam_weight_decay))
    if adam_learning_rate is not None:
        check_positive(adam_learning_rate=by_step(adam_learning_rate))
    axes = _two_axes if muon_weight_dimension_numbers is None else muon_weight_dimension_numbers
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
    flow = grouped(matrices, others, axes, paces)
    solver = solvers.Lie() if solver is None else solver
    return ode_optimizer(flow, solver, learning_rate, **options)


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
    the eigenvectors of the moments of $GG^H$ and $G^HG$, refreshed every `precondition_frequency`
    steps by one power step and QR. All other leaves follow Adam's flow in the same step, with the
    same numbers. Order 1 on `flows.GroupedFlow` of `flows.KroneckerFlow` and `flows.AdamFlow`, 1
    gradient a step and 8 products of each matrix with square matrices of its sides. Where sides are
    longer than a batch these cost more than the gradient: on 784-512-512-10 and 2 CPU cores a
    training step takes 22 times as long as one with Adam in batches of 128, and 4.5 times in
    batches of 1,024; with `max_precond_dim=256` 1.08 and 1.02 times (in a checkout:
    `python -m benchmarks --only soap`). Needs no `value_fn`.

    This differs from the published code. There the first gradient makes the bases and nothing
    moves; here it also counts in the moments, and the first step is along its polar factor. There
    the bias correction comes after $\epsilon$ is added, and weight decay after the step; here both
    come before, as in Adam. Entries that cannot be told from rounding errors do not move. A leaf of
    more than two axes is a stack of matrices; in the published code every axis has a basis.

    Args:
      learning_rate: $h$; see `muon`.
      b1: decay of the first moments, in [0, 1); or `flows.LogTime(r)`.
      b2: decay of the second moments.
      eps: $\epsilon$.
      weight_decay: $w$, decoupled; a number or a schedule. The published code has 0.01.
      mask: a tree of booleans, or a function of the parameters: what to decay.
      nesterov: look ahead in the first moments.
      precondition_frequency: steps from one refresh of the bases to the next. Under `jax.vmap` of
        `update` every step takes as long as one with a refresh.
      max_precond_dim: a longer side keeps the identity as basis, at no cost; None for 10,000.
      shampoo_beta: decay of the moments that define the bases; None for `b2`.
      weight_dimension_numbers: which leaves are matrices, and their axes: see `muon`.
      solver: another splitting, such as `solvers.Strang()`; None for `solvers.Lie()`.
      **options: see `ode_optimizer`. `correction=2` cancels the drift between refreshes, and
        needs `nesterov=False`.

    Returns:
      An optax transformation; its state holds two copies of the parameters, and two square matrices
      for each side of a matrix. All of it is at least in float32, except the first moment of other
      leaves.

    Raises:
      ValueError: a decay outside [0, 1), a negative `eps` or `weight_decay`, a frequency or a side
        below 1; in `update`, a solver that is not a splitting.

    Reference: Vyas et al. (2024), arXiv:2409.11321.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.soap(3e-3)
    """
    b2 = as_decay(b2, jnp.float32)  # squares of small gradients would underflow in 16 bits
    axes = _two_axes if weight_dimension_numbers is None else weight_dimension_numbers
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
    flow = grouped(matrices, others, axes)
    solver = solvers.Lie() if solver is None else solver
    return ode_optimizer(flow, solver, learning_rate, **options)


def grouped(
    matrices: AbstractFlow, others: AbstractFlow, axes: Any, paces: dict[str, Any] | None = None
) -> GroupedFlow:
    """One flow for leaves with axes of matrices, and another, labelled "adam", for the others."""
    return GroupedFlow({"matrices": matrices, "adam": others}, _Labels(axes), paces or {})


def _two_axes(params: PyTree[Array]) -> PyTree[MuonDimensionNumbers | None]:
    """Leaves of two axes are matrices."""
    return jax.tree.map(lambda x: MuonDimensionNumbers() if x.ndim == 2 else None, params)


@dataclasses.dataclass(frozen=True)
class _Labels:
    """Labels each leaf with the flow that it follows."""

    axes: Any

    def __call__(self, params: PyTree[Array]) -> PyTree[str]:
        axes = axes_of(self.axes, params)
        return jax.tree.map(lambda a: "adam" if a is None else "matrices", axes, is_leaf=is_axes)
