"""A monitor for a training loop of the user's own."""

import collections
import importlib
import inspect
import math
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .checks import check, check_counts, is_traced, is_transformation, known_design, whole_from
from .diagnostics.sharpness import along, extreme, linearized_gradient
from .objective import Objective
from .state import of_arrays, states, summary, unwrapped

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

_FIRST = 24  # Hessian products of the first measurement, which has no vector to start from
_BATCHES = 10  # measured batches in the mean of the batch sharpness
_COUNTS = ("step", "steps", "accepted")  # left out of a plot: straight lines


class Monitor:
    """The result of `monitor`: call it in every step of a loop; it measures in some of them.

    Attributes:
      history: the records so far, as a list of dicts.
    """

    def __init__(
        self,
        opt: optax.GradientTransformation,
        loss: Callable[..., Any],
        every: int,
        products: int,
        drift_gradients: int,
    ) -> None:
        self.history: list[dict[str, float]] = []
        self._opt: Any = opt
        self._loss, self._every, self._products = loss, every, products
        design = known_design(opt)
        # The limit is on h times the curvature of the loss: the gradient must be untransformed.
        raw = design is not None and design.stage_transform is None
        self._limit = self._opt.stability_limit if raw else None
        self._with_drift = False
        if design is not None:
            from .drift.measured import drift_cost  # noqa: PLC0415  # a quarter of the import

            cost = drift_cost(design)
            self._with_drift = cost is not None and cost <= drift_gradients
        self._calls = 0
        self._vector: PyTree[Array] | None = None
        self._quotients: collections.deque[float] = collections.deque(maxlen=_BATCHES)
        self._compiled = eqx.filter_jit(self._measure)

    def __call__(
        self, params: PyTree[Any], state: PyTree[Any], /, *args: Any, **kwargs: Any
    ) -> dict[str, float]:
        """The record of this step, empty in the steps between two measurements.

        Args:
          params: the parameters after the step, or an Equinox model.
          state: the optimizer's state after the step.
          args: the other arguments of the loss: the batch, a key, ...
          kwargs: the same by name.
        """
        if is_traced((params, state)):
            raise TypeError(
                "The monitor returns Python numbers, so call it after the compiled train step, not "
                "within it: `params, state = train_step(...)`, then `watch(params, state, ...)`."
            )
        if self._calls % self._every:
            self._calls += 1
            return {}
        arrays, rest = eqx.partition(params, eqx.is_inexact_array)
        self._check(params, arrays, state, args, kwargs)
        products = _FIRST if self._vector is None else self._products
        vector, found = self._compiled(arrays, rest, state, self._vector, products, args, kwargs)
        values = {name: float(value) for name, value in jax.device_get(found).items()}
        # After a vector that is not finite, the next measurement starts afresh.
        self._vector = vector if math.isfinite(values["sharpness"]) else None
        quotient = values["batch_sharpness"]
        if math.isfinite(quotient):
            self._quotients.append(quotient)
            values["batch_sharpness"] = statistics.fmean(self._quotients)
        self._calls += 1
        self.history.append({"step": float(self._calls), **values})
        return dict(self.history[-1])

    def to_frame(self) -> "pandas.DataFrame":
        """The history as a data frame, one row a record, NaN where not known; needs pandas."""
        return _library("pandas").DataFrame(self.history)

    def plot(self) -> "Figure":
        """The history as a figure, one panel for each quantity; needs matplotlib.

        Raises:
          ValueError: nothing was recorded yet.
        """
        drawing = _library("matplotlib.figure")
        names = [n for n in dict.fromkeys(n for r in self.history for n in r) if n not in _COUNTS]
        if not names:
            raise ValueError("Nothing was recorded yet: call the monitor in the loop first.")
        figure = drawing.Figure(figsize=(7, 1.6 * len(names)), layout="constrained")
        panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            points = [(record["step"], record[name]) for record in self.history if name in record]
            axes.plot(*zip(*points, strict=True), marker=".")
            axes.set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center")
            if name == "stability_ratio":
                axes.axhline(1.0, linestyle="--", color="gray")
        panels[-1].set_xlabel("step")
        return figure

    def _measure(
        self,
        arrays: PyTree[Array],
        rest: PyTree[Any],
        state: PyTree[Any],
        start: PyTree[Array] | None,
        products: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[PyTree[Array], dict[str, Array]]:
        """The Ritz vector and all quantities, as one program."""

        def value_fn(arrays: PyTree[Array]) -> Any:
            return self._loss(eqx.combine(arrays, rest), *args, **kwargs)

        params, value_fn = unwrapped(arrays), of_arrays(value_fn, arrays)
        grads, product = linearized_gradient(Objective.of(value_fn, {}), params)
        top = extreme(product, params, products, start)
        found = _steps_taken(state)
        found["sharpness"] = top.value
        found["batch_sharpness"] = along(product, grads)
        if self._limit is not None:
            found["stability_ratio"] = found["step_size"] * top.value / self._limit
        if self._with_drift:
            from .drift import step_drift  # noqa: PLC0415

            ((_, own),) = states(state)
            drift = step_drift(self._opt, own, params, value_fn=value_fn)
            found |= {"drift": drift.size, "drift_cosine": drift.cosine}
        return top.vector, found

    def _check(
        self, params: PyTree[Any], arrays: PyTree[Array], state: PyTree[Any], args: Any, kwargs: Any
    ) -> None:
        try:
            inspect.signature(self._loss).bind(params, *args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"The loss cannot be called with what the monitor was given, {error}: after params "
                "and state pass the arguments of the loss, `watch(params, state, batch)`."
            ) from None
        made = [eqx.filter(params, eqx.is_array), arrays]
        if _shapes(state) not in [_shapes(jax.eval_shape(self._opt.init, tree)) for tree in made]:
            raise ValueError(
                "This is not a state of the optimizer that the monitor was built with: call "
                "`watch(params, state, ...)` with the state of `opt.init(params)`, and build it "
                "as `monitor(opt, loss)` with the whole optimizer, chain and wrappers included."
            )


def monitor(
    opt: optax.GradientTransformation,
    loss: Callable[..., Any],
    /,
    *,
    every: int = 200,
    products: int = 8,
    drift_gradients: int = 50,
) -> Monitor:
    r"""A monitor for a training loop of your own, with any optax optimizer.

    After `watch = odeopt.monitor(opt, loss)`, call `watch(params, state, ...)` at the end of every
    step, with the other arguments of the loss. The first call, and every `every`-th call after it,
    return a record, a dict of Python floats for any logger; other calls return an empty dict.
    Training is the same with and without the monitor. A record has

    - `step`: calls of the monitor so far.
    - `sharpness`: $\lambda$, the largest eigenvalue of the Hessian of the loss of this batch, by
      Lanczos' algorithm, which starts from the vector of the last record.
    - `batch_sharpness`: the mean of $g\cdot Hg/\|g\|^2$, with g and H of one batch, over the last
      10 batches that were measured, each at the parameters of its own step; a batch whose gradient
      is 0 counts as 0. With small batches, this sharpness settles at the edge of stability
      (arXiv:2604.14108).
    - the entries of `odeopt.summary` (with paths in the state if there are several odeopt
      optimizers). For another optimizer `step_size` is the `learning_rate` in its state, if there
      is one: from `inject_hyperparams`, or from a line search, in units of its direction.
    - `stability_ratio`: $h\lambda/R$ with the last step size h and the `stability_limit` R; 1 is
      the edge of stability. Only if `opt` is an odeopt optimizer with a limit R and without a
      `stage_transform`. With momentum on a clock (`flows.LogTime`) R is the limit at the start, and
      a long run has its edge at 2.
    - `drift`, `drift_cosine`: `size` and `cosine` of `drift.step_drift`, which is what the solver's
      error adds to the next step, in units of the parameters, and its cosine with that step (for
      Euler's method with the gradient). Only if `opt` is an odeopt optimizer with a known
      counter-term.

    A record costs `products` Hessian products (the first 24) of 2 gradients each, 3 gradients for
    the batch sharpness, and 2 for the drift of Euler's method, momentum or Adam. At the defaults,
    gradient descent takes at most 1.15 times as long (`python -m benchmarks --only monitor`).
    Pass changing values as arrays: a new Python number compiles again. Memory: a copy of the
    parameters; during a measurement one more for each product.

    Args:
      opt: any optax optimizer, the one whose state the loop holds.
      loss: the loss that is trained, `loss(params, ...)`, a scalar or `(scalar, aux)`; `params` may
        be an Equinox model.
      every: calls from one record to the next.
      products: Hessian products of a record after the first.
      drift_gradients: the most gradients that the drift may cost; a drift that costs more is left
        out of the record. Methods of order 1 to 3 are within the default, RK4 takes 147. A loop in
        a method counts with all its rounds.

    Raises:
      TypeError: something that is not an optimizer or a loss; in the loop, a loss that cannot be
        called with the given arguments, or a call inside `jit`.
      ValueError: a number that is not positive; in the loop, a loss that is not a scalar, or the
        state of another optimizer.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt, optax
      >>> loss = lambda x, scale: 0.5 * scale * jnp.sum(jnp.array([1.0, 10.0]) * x**2)
      >>> opt, params = odeopt.euler(0.1), jnp.ones(2)
      >>> state, watch = opt.init(params), odeopt.monitor(opt, loss, every=2)
      >>> for batch in [1.0, 1.0, 1.5]:
      ...     updates, state = opt.update(jax.grad(loss)(params, batch), state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     record = watch(params, state, batch)
      >>> {name: round(record[name], 3) for name in ("step", "sharpness", "stability_ratio")}
      {'step': 3.0, 'sharpness': 15.0, 'stability_ratio': 0.75}
    """
    if not is_transformation(opt) or not callable(loss):
        raise TypeError(
            f"monitor(opt, loss) takes an optax optimizer and a loss function, not a "
            f"{type(opt).__name__} and a {type(loss).__name__}."
        )
    check_counts(every=every, products=products)
    check(whole_from(0), "drift_gradients", drift_gradients, "a whole number of gradients")
    return Monitor(opt, loss, every, products, drift_gradients)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise ImportError(f"This needs {name}: `pip install {name}`.") from None


def _steps_taken(state: PyTree[Any]) -> dict[str, Any]:
    """`summary` as a flat dict; without an odeopt optimizer, the learning rate in the state."""
    if not any(True for _ in states(state)):
        named = optax.tree.get_all_with_path(state, "learning_rate")
        rates = [rate for _, rate in named if eqx.is_array(rate)]  # no schedule's state
        return {"step_size": rates[0]} if len(rates) == 1 else {}
    found = summary(state)
    if "step_size" in found:
        return dict(found)
    return {f"{name}{path}": value for path, s in found.items() for name, value in s.items()}


def _shapes(tree: PyTree[Any]) -> list[tuple[int, ...]]:
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
