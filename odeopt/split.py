"""A loss in two parts, the model and the loss of its outputs."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .arguments import checked_loss, forwarded, unmasked
from .arrays import Scalar
from .objective import Objective

_HOW = """
    loss = odeopt.composite(loss_fn, predict_fn)
    updates, state = opt.update(grads, state, params, value_fn=loss, inputs=inputs, targets=targets)
"""


class Split(NamedTuple):
    """A loss of the outputs of a model, with every argument but the parameters bound."""

    predict: Callable[[PyTree[Array]], PyTree[Array]]
    loss: Callable[[PyTree[Array]], Scalar]
    samples: dict[str, PyTree[Array]]  # the arguments with samples on their leading axis
    predict_one: Callable[[PyTree[Array], dict[str, PyTree[Array]]], PyTree[Array]]


class Composite:
    """The result of `composite`: a `value_fn` that knows its model and the loss of the outputs."""

    is_composite: ClassVar[bool] = True

    def __init__(
        self, loss_fn: Callable, predict_fn: Callable, samples: Sequence[str] | None
    ) -> None:
        for name, function in {"loss_fn": loss_fn, "predict_fn": predict_fn}.items():
            if not callable(function):
                raise TypeError(
                    f"{name} is a {type(function).__name__}, not a function: write "
                    "`odeopt.composite(loss_fn, predict_fn)` with loss_fn(outputs, ...) and "
                    "predict_fn(params, ...)."
                )
        self._loss_fn, self._predict_fn, self._samples = loss_fn, predict_fn, samples
        self.__signature__ = _joint_signature(predict_fn, loss_fn)  # what `forwarded` reads
        known = _joint_signature(predict_fn).parameters.values()
        unknown = {*(samples or ())} - {p.name for p in known}
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in known):
            raise ValueError(
                f"samples names {sorted(unknown)}, which are not arguments of predict_fn. Write "
                'them as a tuple, `samples=("inputs",)`.'
            )

    def __call__(self, params: PyTree[Array], *given: Any, **arguments: Any) -> Any:
        """`loss_fn(predict_fn(params, ...), ...)`; positional arguments of the model come first."""
        names = [p.name for p in self.__signature__.parameters.values() if p.kind is p.KEYWORD_ONLY]
        if len(given) > len(names) or {*names[: len(given)]} & {*arguments}:
            raise TypeError(
                f"The loss takes ({', '.join(['params', *names])}); it was given "
                f"{len(given)} after the parameters by position and {sorted(arguments)} by name."
            )
        of_model, of_loss = self._arguments({**dict(zip(names, given, strict=False)), **arguments})
        return self._loss_fn(self._predict_fn(params, **of_model), **of_loss)

    def split(
        self, arguments: Mapping[str, Any], full_params: PyTree[Any] | None, fraction: float = 1.0
    ) -> Split:
        """Both functions with `arguments` bound, on the first `fraction` of the samples."""
        of_model, of_loss = self._arguments(arguments)
        names = of_model if self._samples is None else self._samples
        samples = {name: of_model[name] for name in names if name in of_model}
        _check_samples(samples)
        if fraction < 1:
            if not jax.tree.leaves(samples):
                raise ValueError(
                    f"fraction={fraction} takes a part of the samples, and no argument of "
                    "predict_fn carries any: drop `fraction=`, or name them, "
                    '`composite(loss_fn, predict_fn, samples=("inputs",))`.'
                )
            whole = len(jax.tree.leaves(samples)[0])
            part = math.ceil(fraction * whole)
            samples = jax.tree.map(lambda x: x[:part], samples)
            of_model = of_model | samples
            of_loss = {
                name: jax.tree.map(lambda x: x[:part], value)
                if all(jnp.shape(x)[:1] == (whole,) for x in jax.tree.leaves(value))
                else value
                for name, value in of_loss.items()
            }

        def predict(params: PyTree[Array], **some: Any) -> PyTree[Array]:
            return self._predict_fn(unmasked(params, full_params), **{**of_model, **some})

        def predict_one(params: PyTree[Array], sample: dict[str, PyTree[Array]]) -> PyTree[Array]:
            outputs = predict(params, **jax.tree.map(lambda x: x[None], sample))
            if any(leaf.shape[:1] != (1,) for leaf in jax.tree.leaves(outputs)):
                shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(outputs))
                raise ValueError(
                    f"predict_fn turns one sample of {', '.join(sample)} into outputs of shape "
                    f"{shapes}, whose leading axis is not that of the samples. If these arguments "
                    "carry no samples: `composite(loss_fn, predict_fn, samples=())`."
                )
            return jax.tree.map(lambda x: x[0], outputs)

        def loss(outputs: PyTree[Array]) -> Scalar:
            return checked_loss(self._loss_fn(outputs, **of_loss))

        return Split(predict, loss, samples, predict_one)

    def around(
        self,
        of_params: Callable[[PyTree[Array]], PyTree[Any]],
        of_loss: Callable[[Any], Any],
    ) -> "Composite":
        """The same two parts, where the model takes `of_params(params)`, and the loss is `of_loss`
        of what `loss_fn` returns.
        """

        @functools.wraps(self._predict_fn)
        def predict(params: PyTree[Array], *given: Any, **named: Any) -> PyTree[Array]:
            return self._predict_fn(of_params(params), *given, **named)

        @functools.wraps(self._loss_fn)
        def loss(*given: Any, **named: Any) -> Any:
            return of_loss(self._loss_fn(*given, **named))

        return Composite(loss, predict, self._samples)

    def _arguments(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        of_model = forwarded(self._predict_fn, "predict_fn(params)", 1, given, alone=False)
        of_loss = forwarded(self._loss_fn, "loss_fn(outputs)", 1, given, alone=False)
        forwarded(self, "value_fn(params)", 1, given)  # warns of arguments that neither names
        return of_model, of_loss


def composite(
    loss_fn: Callable[..., Any],
    predict_fn: Callable[..., PyTree[Array]],
    *,
    samples: Sequence[str] | None = None,
) -> Composite:
    r"""A `value_fn` that keeps model and loss apart, as Gauss-Newton curvature needs them.

    It is `loss_fn(predict_fn(params, ...), ...)`, and can be differentiated and passed like any
    other loss. Each function gets the arguments that it names; an argument that both name goes to
    both. Positional arguments are those of `predict_fn`, then those that only `loss_fn` names.

    Products with the generalized Gauss-Newton matrix $J^T\,\nabla^2\ell\,J$ need no more. For its
    *exact* solution each output must depend only on its own sample, and `loss_fn` must be a sum or
    a mean, weighted or not, over the leading axis of the outputs. This is not checked: for a model
    whose samples interact (batch normalization in training mode) pass `samples=()`, or pass
    `solve="cg"` to the optimizer.

    Args:
      loss_fn: the loss of the whole batch, `loss_fn(outputs, ...)`, a scalar or `(scalar, aux)`.
      predict_fn: the model, `predict_fn(params, ...)`; it returns an array or a tree of outputs,
        with the samples on their leading axis.
      samples: names of the arguments of `predict_fn` that carry the samples on their leading axis;
        None for all of them. Others, such as a key, are the same for every sample. `()`: no
        argument carries samples (each output then costs one gradient in the Jacobian). If an
        optimizer takes curvature on a `fraction` of the samples, arguments of `loss_fn` with a
        leading axis of the same length are cut too.

    Raises:
      ValueError: `samples` that are not arguments of `predict_fn`; when curvature is taken,
        arguments that differ in the length of that axis.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss = odeopt.composite(
      ...     lambda outputs, targets: jnp.mean((outputs - targets) ** 2),
      ...     lambda params, inputs: inputs @ params,
      ... )
      >>> inputs, targets = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, 11.0])
      >>> value, grads = jax.value_and_grad(loss)(jnp.zeros(2), inputs=inputs, targets=targets)
      >>> value, grads
      (Array(73., dtype=float32), Array([-38., -54.], dtype=float32))
    """
    return Composite(loss_fn, predict_fn, samples)


def split(objective: Objective, fraction: float = 1.0) -> Split:
    """Model and loss of an objective whose `value_fn` is a `composite`; see `Composite.split`."""
    if not objective.splits:
        raise ValueError(
            'curvature="ggn", or a fraction of the samples, must know where the model ends and the '
            f"loss begins. Write\n{_HOW}\nwith predict_fn(params, inputs) and loss_fn(outputs, "
            'targets); or build the optimizer with curvature="hessian".'
        )
    args = objective.args
    return args["value_fn"].split(args, args.get("full_params"), fraction)


def _joint_signature(*functions: Callable) -> inspect.Signature:
    """`(params, *, ...)` with the other arguments of all functions; required if one requires it."""
    first = inspect.Parameter("params", inspect.Parameter.POSITIONAL_ONLY)
    named: dict[str, inspect.Parameter] = {}
    anything: list[inspect.Parameter] = []
    for function in functions:
        for p in list(inspect.signature(function).parameters.values())[1:]:
            if p.kind is p.VAR_KEYWORD:
                anything = [p]
            elif p.kind is not p.VAR_POSITIONAL and (p.name not in named or p.default is p.empty):
                named[p.name] = p.replace(kind=p.KEYWORD_ONLY)
    return inspect.Signature([first, *named.values(), *anything])


def _check_samples(samples: Mapping[str, PyTree[Array]]) -> None:
    """Raise a `ValueError` if the arguments differ in their leading axis."""
    lengths = {
        name: {jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in jax.tree.leaves(argument)}
        for name, argument in samples.items()
    }
    if len(set().union(*lengths.values())) > 1:
        found = ", ".join(f"{name}: {sorted(n, key=str)}" for name, n in lengths.items())
        carry = next((name for name, n in lengths.items() if None not in n), "inputs")
        raise ValueError(
            f"The arguments of predict_fn differ in their leading axis ({found}): write which of "
            f'them carry the samples: `composite(loss_fn, predict_fn, samples=("{carry}",))`.'
        )
