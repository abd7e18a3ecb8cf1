"""A loss in parts: the batches of an epoch, several tasks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .arguments import check_function, forwarded
from .arrays import Scalar
from .objective import Objective

Losses = Callable[..., Any] | Sequence[Callable[..., Any]]
"""One loss, with some arguments that have a row for each part; or one loss for each part."""


def with_rows(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the arguments that have one row for each part: all but `full_params`."""
    return tuple(name for name in arguments if name != "full_params")


class LossSum(NamedTuple):
    """The values and gradients of the parts of a loss; complex gradients are conjugated."""

    parts: PyTree[Array]  # the arguments or index of each part, one row each, to scan over
    number: int
    gradient: Callable[[PyTree[Array], PyTree[Array]], PyTree[Array]]  # of params and a row
    value: Callable[[PyTree[Array], PyTree[Array]], Scalar]

    @classmethod
    def of(cls, value_fn: Losses, each: Sequence[str], arguments: Mapping[str, Any]) -> "LossSum":
        """The parts: the losses of a list, or one loss on each row of the arguments in `each`."""
        if not callable(value_fn):
            if each:
                raise ValueError(
                    f"each names {list(each)}, but the parts are the losses of a list: leave it "
                    "out, or pass one loss."
                )
            given = jax.tree.leaves(value_fn, is_leaf=callable)
            for loss in given:
                check_function(loss, "value_fn(params)")
            losses = [Objective.of(loss, own) for loss, own in _shared(given, arguments)]
            if not losses:
                raise ValueError("There is no loss: pass one, or a list of at least one.")
            return cls(
                jnp.arange(len(losses)),
                len(losses),
                lambda params, i: jax.lax.switch(i, [loss.gradient for loss in losses], params),
                lambda params, i: jax.lax.switch(i, [loss.value for loss in losses], params),
            )
        unknown = sorted(set(each) - set(arguments))
        if unknown:
            raise ValueError(
                f"each names {unknown}, which were not passed: it names the arguments that have "
                'one row a part, as in `each=("batch",), batch=batches`.'
            )
        rows = {name: arguments[name] for name in each}
        rest = {name: value for name, value in arguments.items() if name not in rows}
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(rows)}
        if each and (len(counts) != 1 or counts <= {(), (0,)}):
            raise ValueError(
                f"{', '.join(each)}: leading axes {sorted(counts)}. Every array in them needs one "
                "row for each part: stack the batches, `jnp.stack([first, second])`."
            )

        def objective(row: dict[str, PyTree[Array]]) -> Objective:
            return Objective.of(value_fn, {**rest, **row})

        return cls(
            rows,
            counts.pop()[0] if each else 1,
            lambda params, row: objective(row).gradient(params),
            lambda params, row: objective(row).value(params),
        )

    def fold(self, body: Callable[[PyTree, PyTree[Array]], PyTree], start: PyTree) -> PyTree:
        """`body(carry, row) -> carry` over all parts in turn, compiled once."""
        return jax.lax.scan(lambda c, row: (body(c, row), None), start, self.parts, self.number)[0]

    def total(self, params: PyTree[Array]) -> PyTree[Array]:
        """The sum of all gradients, at one gradient for each part."""

        def body(total: PyTree[Array], row: PyTree[Array]) -> PyTree[Array]:
            return jax.tree.map(jnp.add, total, self.gradient(params, row))

        return self.fold(body, jax.tree.map(jnp.zeros_like, params))


def _shared(
    losses: Sequence[Callable[..., Any]], arguments: Mapping[str, Any]
) -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    """Each loss with the arguments that it names, and those that no loss names."""
    named = [forwarded(loss, "value_fn(params)", 1, arguments, alone=False) for loss in losses]
    taken = set().union(*named)
    return [
        (loss, {n: x for n, x in arguments.items() if n in own or n not in taken})
        for loss, own in zip(losses, named, strict=True)
    ]
