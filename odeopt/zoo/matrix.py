"""Optimizers of matrices: Muon by splitting."""

import dataclasses
from collections.abc import Callable
from typing import Any, Unpack

import jax
import optax
from jaxtyping import Array, PyTree
from optax.contrib import MuonDimensionNumbers

from .. import solvers
from ..flows import AdamFlow, GroupedFlow, LogTime, SpectralFlow
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
    steepest descent in the spectral norm, at unit speed. Leaves that are no matrices follow Adam's
    flow beside it. Order 1 on `flows.GroupedFlow` of `flows.SpectralFlow` and `flows.AdamFlow`, 1
    gradient a step and a few products of the matrices with themselves. Needs no `value_fn`.

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

    Returns:
      An optax transformation; its state holds one copy of matrices and two of other parameters.

    Raises:
      ValueError: a decay outside [0, 1), or a number that is not positive as learning rate.

    References: Jordan (2024), "Muon"; Bernstein and Newhouse, arXiv:2409.20325.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
      >>> opt = odeopt.muon(0.02)
      >>> state, grads = opt.init(params), jax.tree.map(jnp.ones_like, params)
      >>> updates, state = opt.update(grads, state, params)
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


@dataclasses.dataclass(frozen=True)
class _Axes:
    """How every leaf is read as matrices; None for a leaf that is none."""

    chosen: Any

    def __call__(self, params: PyTree[Array]) -> PyTree[MuonDimensionNumbers | None]:
        if self.chosen is None:
            return jax.tree.map(lambda x: MuonDimensionNumbers() if x.ndim == 2 else None, params)
        given = self.chosen(params) if callable(self.chosen) else self.chosen
        return jax.tree.broadcast(given, params, is_leaf=_is_axes)


@dataclasses.dataclass(frozen=True)
class _Labels:
    """Which flow each leaf follows."""

    axes: _Axes

    def __call__(self, params: PyTree[Array]) -> PyTree[str]:
        return jax.tree.map(
            lambda axes: "adam" if axes is None else "matrices", self.axes(params), is_leaf=_is_axes
        )


def _is_axes(node: Any) -> bool:
    return node is None or isinstance(node, MuonDimensionNumbers)
