"""What a problem of a study is: a loss, its data, a random initial point. Knows no optimizer."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from ...checks import is_traced
from ...split import Composite
from .checksums import checksum, checksum_of
from .refusals import (
    holds_module,
    is_inexact,
    kinds,
    line,
    mend,
    needed,
    refuse,
    said,
    whole_numbers,
    wrong_fields,
)

Params: TypeAlias = Any
Batch: TypeAlias = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """A loss, its data and a random initial point: what optimizers race on.

    Attributes:
        loss: `loss(params, batch)`, or `loss(params, batch, key)` where it is random (dropout);
            a scalar, the mean over the examples of `batch`. Every step has a key of its own.
        init: `init(seed)`, the initial parameters for an int `seed`: any tree of floating-point
            arrays, or an Equinox model. For a Flax model: `lambda seed: model.init(
            jax.random.key(seed), inputs)`.
        data: A tree of arrays with one example a row; a batch is the same tree with fewer rows.
        name: The name in tables and records.
        title: One line for people.
        batch_size: Examples a step sees; `None` is all of them.
        validation: A tree like `data`, held out; `()` for none.
        metric: `metric(params, validation)`, which is reported beside the loss on `validation`: a
            scalar, or a dict of scalars by name. One that is called "validation" takes the place
            of that loss.
        has_aux: Whether `loss` returns `(loss, aux)`; `aux` is dropped.
        weight_decay: w adds w/2 times the squared norm of the parameters to the loss that trains,
            not to that on `validation`; not of an `odeopt.composite`.
        quadratic: Whether the Hessian is constant, so that its spectrum is computed densely and
            the stability limit is exact; of full batches it is measured too.
        x64: Whether it runs with x64 enabled; by default as JAX is set when it is made.

    Raises:
        ValueError: For a loss or metric that is not a scalar, an initial point that is not
            floating-point or not finite, data that do not fit together, or a batch that is larger
            than the data.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from odeopt.studies import Problem
        >>> x = np.linspace(-1, 1, 32, dtype=np.float32)
        >>> line = Problem(
        ...     loss=lambda params, batch: jnp.mean((batch[0] * params - batch[1]) ** 2),
        ...     init=lambda seed: jnp.zeros(()) + seed,
        ...     data=(x, 3 * x),
        ...     batch_size=8,
        ... )
        >>> line.examples, line.dtype.__name__
        (32, 'float32')
    """

    loss: Callable[..., Any]
    init: Callable[[int], Params]
    data: PyTree
    _: dataclasses.KW_ONLY
    name: str = "my problem"
    title: str = ""
    batch_size: int | None = None
    validation: PyTree = ()
    metric: Callable[[Params, PyTree], Any] | None = None
    has_aux: bool = False
    weight_decay: float = 0.0
    quadratic: bool = False
    x64: bool = dataclasses.field(
        default_factory=lambda: jax.dtypes.canonicalize_dtype(float) == np.float64
    )

    def __repr__(self) -> str:
        return f"<Problem {self.name!r}, {self.examples} examples>"

    def __post_init__(self) -> None:
        for wrong in wrong_fields(self):
            refuse(self, wrong)
        with jax.enable_x64(self.x64):
            for wrong in chain(self._wrong_start(), self._wrong_loss(), self._wrong_metric()):
                refuse(self, wrong)

    def _wrong_start(self) -> Iterator[str]:
        yield from whole_numbers(self._init(0))
        start = self.start(0)
        leaves = jax.tree.leaves(start)
        if not leaves:
            yield "init gives no floating-point array: yield the parameters from it."
        if not is_traced(start) and checksum(start) != checksum(self._first[0]):
            yield (
                "init(0) gives other numbers every time: draw them from its seed, with "
                "jax.random.key(seed) or np.random.default_rng(seed)."
            )
        if any(map(jnp.iscomplexobj, leaves)):
            yield (
                "init gives complex parameters, which studies do not take: give real and imaginary "
                "part as two arrays, and put them together in the loss."
            )

    def _wrong_loss(self) -> Iterator[str]:
        batch = self.first_batch
        names = needed(self.loss, 1) - {"batch", "key"}
        if isinstance(self.loss, Composite) and names:
            yield (
                f"its loss is an odeopt.composite of {' and '.join(sorted(names))}: call the data "
                "batch, as in loss(outputs, batch) and predict(params, batch), or no solver sees "
                "its two parts."
            )
        if isinstance(self.loss, Composite) and self.weight_decay:
            yield (
                "weight_decay= is in neither part of its odeopt.composite, so that no solver would "
                "see them: leave it out, or write the loss as a function, loss(params, batch)."
            )
        try:
            found = jax.eval_shape(self._given, self.start(0), batch, **self.fixed_key)
        except Exception as error:
            if others := needed(self.loss, 2) - {"key"}:
                refuse(
                    self,
                    f"its loss needs {' and '.join(sorted(others))} besides params and batch: call "
                    "the random argument key, loss(params, batch, key), and give any other one a "
                    "value, functools.partial(loss, name=value).",
                    error,
                )
            shapes = ", ".join(str(leaf.shape) for leaf in jax.tree.leaves(batch))
            words = mend(error, "The batch is a tree like data= with fewer rows.")
            what = f"loss(params, batch) fails on arrays of shapes {shapes}: {line(error)}. {words}"
            refuse(self, what, error)
        is_pair = isinstance(found, tuple) and len(found) == 2
        if is_pair and not self.has_aux:
            yield "its loss returns a pair: if that is (loss, aux), say has_aux=True."
        if self.has_aux and not is_pair:
            yield "has_aux=True says that the loss returns (loss, aux); it does not."
        found = found[0] if is_pair else found
        array = isinstance(found, jax.ShapeDtypeStruct)
        if not (array and found.shape == () and jnp.issubdtype(found.dtype, jnp.floating)):
            what = f"{found.dtype} of shape {found.shape}" if array else type(found).__name__
            yield f"its loss returns {what}, not one real number: write jnp.mean(...) around it."

    def _wrong_metric(self) -> Iterator[str]:
        if not jax.tree.leaves(self.validation):
            if self.metric is not None:
                yield "metric= is computed on validation=: give validation data too."
            return
        try:
            start = self.start(0)
            own = jax.eval_shape(self._metrics, start, self.validation)
            found = jax.eval_shape(self.measured, start, self.data, self.validation)
        except Exception as error:
            words = mend(
                error,
                "validation is a tree like data=, and metric(params, validation) returns a number.",
            )
            refuse(self, f"loss or metric fails on validation=: {line(error)}. {words}", error)
        # Their lengths may differ, as those of sequences do.
        trees = self.data, self.validation
        axes = [[(p, x.ndim) for p, x in jax.tree.leaves_with_path(tree)] for tree in trees]
        if "validation" not in own and axes[0] != axes[1]:
            like, held = (said(tree, lambda leaf: leaf.shape[1:]) for tree in trees)
            yield (
                f"an example of data= is {like}, and one of validation= is {held}: give a tree "
                "like data=, or a metric that takes the place of the loss there, "
                'metric=lambda params, validation: {"validation": ...}.'
            )
        if "loss" in own:
            yield 'a metric is called "loss", as the loss on all data is: rename it.'
        for name, value in found.items():
            if value.shape != () or jnp.iscomplexobj(value):
                yield f"metric {name!r} is not one real number: write jnp.mean(...) around it."

    def _init(self, seed: int) -> PyTree:
        try:
            with jax.enable_x64(self.x64):
                found = self.init(seed)
                if holds_module(found):
                    return found
                return jax.tree.map(lambda x: jnp.asarray(x) if is_inexact(x) else x, found)
        except Exception as error:
            words = "init takes a seed, an int; where a key is needed, write jax.random.key(seed)."
            refuse(self, f"init({seed}) fails: {line(error)}. {words}", error)

    @functools.cached_property
    def _first(self) -> tuple[Params, PyTree]:
        """Of seed 0: the parameters, and what does not train."""
        return eqx.partition(self._init(0), eqx.is_inexact_array)

    def _whole(self, params: Params) -> PyTree:
        """The parameters, in the model that they are of."""
        return eqx.combine(params, self._first[1])

    @functools.cached_property
    def takes_key(self) -> bool:
        """Whether the loss is random: takes a key, and has none of its own by `partial`."""
        key = inspect.signature(self.loss).parameters.get("key")
        return key is not None and (key.default is key.empty or key.default is None)

    @functools.cached_property
    def dtype(self) -> Any:
        """The type of learning rates and recorded losses: the parameters', float32 at least."""
        leaves = jax.tree.leaves(self.start(0))
        with jax.enable_x64(self.x64):
            return np.dtype(jnp.result_type(np.float32, *(leaf.dtype for leaf in leaves))).type

    @functools.cached_property
    def objective(self) -> Callable[..., Array]:
        """`objective(params, batch)`, with `key` too where the loss is random; decay included."""
        names = list(inspect.signature(self.loss).parameters)
        changed = self.has_aux or self.weight_decay or jax.tree.leaves(self._first[1])
        if isinstance(self.loss, Composite):
            value = lambda found: found[0] if self.has_aux else found  # noqa: E731
            return self.loss.around(self._whole, value) if changed else self.loss
        # An optimizer hands on what it is given by name, so no other argument may have such a name.
        alone = names[:2] == ["params", "batch"] and {*names} <= {"params", "batch", "key"}
        if alone and not changed:
            return self.loss
        if self.takes_key:
            return lambda params, batch, key: self._loss(params, batch, self.weight_decay, key=key)
        return lambda params, batch: self._loss(params, batch, self.weight_decay)

    def _given(self, params: Params, batch: PyTree, **key: Array) -> Any:
        return self.loss(self._whole(params), batch, **key)

    def _loss(self, params: Params, batch: PyTree, decay: float, **key: Array) -> Array:
        loss = self._given(params, batch, **key)
        loss = loss[0] if self.has_aux else loss
        if decay:
            squares = (jnp.vdot(leaf, leaf).real for leaf in jax.tree.leaves(params))
            loss = loss + 0.5 * decay * sum(squares)
        return loss

    def start(self, seed: int) -> Params:
        """The parameters of a seed: of an Equinox model its floating-point arrays.

        Raises:
            ValueError: Parameters that are not finite or have other shapes or types than those of
                seed 0, or a model with other values that do not train: one program makes the runs
                of all seeds.
        """
        found = self._init(seed)
        params, rest = eqx.partition(found, eqx.is_inexact_array)
        if not is_traced(found):
            like, first = self._first
            if kinds(params) != kinds(like):
                refuse(
                    self,
                    f"init({seed}) gives {kinds(params)}, and init(0) gives {kinds(like)}: give "
                    "the same names, types and shapes for every seed.",
                )
            structure: Any = jax.tree.structure(params)
            if structure != jax.tree.structure(like) or _values(rest) != _values(first):
                refuse(
                    self,
                    f"init({seed}) and init(0) differ in a value that does not train, such as a "
                    "number or a key in a model: make it the same for every seed, or an array.",
                )
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
                refuse(self, f"init({seed}) gives NaN or infinity: no optimizer can start there.")
        return params

    def measured(self, params: Params, data: PyTree, validation: PyTree) -> dict[str, Array]:
        """All that a run reports: the loss on all data, and what is held out.

        That is the "validation" loss, without weight decay, and what the metric gives by name
        ("metric" where it gives no name); nothing without `validation` data.
        """
        if not jax.tree.leaves(validation):
            return {"loss": self.full_loss(params, data)}
        validation = jax.tree.map(jnp.asarray, validation)
        own = self._metrics(params, validation)
        held = own.get("validation")
        if held is None:
            held = self._loss(params, validation, 0.0, **self.fixed_key)
        found = {"loss": self.full_loss(params, data), "validation": held, **own}
        return {name: jnp.asarray(value) for name, value in found.items()}

    def _metrics(self, params: Params, validation: PyTree) -> dict[str, Array]:
        found = {} if self.metric is None else self.metric(self._whole(params), validation)
        return found if isinstance(found, dict) else {"metric": found}

    def full_loss(self, params: Params, data: PyTree) -> Array:
        """The objective on all of `data`; of a random loss, with a key that is always the same."""
        loss = self.objective(params, jax.tree.map(jnp.asarray, data), **self.fixed_key)
        return jnp.asarray(loss)  # a loss without parameters may be a plain number

    @functools.cached_property
    def initial(self) -> dict[str, float]:
        """What `measured` gives at the initial point of seed 0."""
        with jax.enable_x64(self.x64):
            found = jax.jit(self.measured)(self.start(0), self.data, self.validation)
            return {name: float(value) for name, value in found.items()}

    @property
    def initial_loss(self) -> float:
        """The objective on all data at the initial point of seed 0."""
        return self.initial["loss"]

    @property
    def fixed_key(self) -> dict[str, Array]:
        """Keyword arguments of the loss where it is random: a key that is always the same."""
        return {"key": jax.random.key(0)} if self.takes_key else {}

    @property
    def first_batch(self) -> PyTree:
        """The data of a step: the first rows, or all."""
        if self.batch_size is None:
            return self.data
        return jax.tree.map(lambda leaf: leaf[: self.batch_size], self.data)

    @property
    def examples(self) -> int:
        """Rows of the data; 1 where it has none."""
        shapes = [leaf.shape for leaf in jax.tree.leaves(self.data) if leaf.shape]
        return shapes[0][0] if shapes else 1

    @property
    def spoken(self) -> str:
        """The problem and its data in a line, for the method of a study."""
        return f"{self.name}{self.title and ': '}{self.title} (data {self.checksum})"

    @functools.cached_property
    def checksum(self) -> str:
        """Of the data."""
        return checksum(self.data)

    @functools.cached_property
    def version(self) -> str:
        """A checksum of all that decides a run: data, loss, metric, batches and initial points."""
        with jax.enable_x64(self.x64):
            given = self.start(0), self.data, self.validation
            traced = jax.make_jaxpr(self.measured)(*given)
            return checksum_of(traced, (given, self.start(1)), self.batch_size, self.quadratic)

    def batches(self, seed: int, steps: int) -> Int[np.ndarray, "steps batch"] | None:
        """The examples of each step: shuffled epochs; `None` for full-batch problems."""
        if self.batch_size is None:
            return None
        per_epoch = self.examples // self.batch_size
        random = np.random.default_rng(seed)
        epochs = [
            random.permutation(self.examples)[: per_epoch * self.batch_size]
            for _ in range(-(-steps // per_epoch))
        ]
        return np.concatenate(epochs).reshape(-1, self.batch_size)[:steps].astype(np.int32)


def metric_in(measured: Iterable[str]) -> str | None:
    """Of the names that `Problem.measured` gives: that of the metric, the first of several."""
    own = [name for name in measured if name not in ("loss", "validation")]
    return "metric" if "metric" in own else next(iter(own), None)


def held_out_of(measured: Mapping[str, Any]) -> Any:
    """Of what `Problem.measured` gives: the metric if there is one, else the validation loss."""
    return measured.get(metric_in(measured) or "validation")


def _values(rest: PyTree) -> str:
    """A checksum of the numbers in what does not train; functions have no value."""
    return checksum(eqx.filter(rest, eqx.is_array_like))
