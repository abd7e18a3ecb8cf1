"""One run as a loop that compiles: steps to the next read-out, up to budget, target or NaN."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .optimizers import Entry
from .problem import Params, Problem
from .steps import step_function

Target = Callable[[Any], Any]


class Given(NamedTuple):
    """What a run is given, budget and rate aside."""

    data: Any
    validation: Any
    start: Params
    batches: Any
    key: jax.Array


class Walk(NamedTuple):
    """What is counted along a run whose end is not known beforehand."""

    steps: jax.Array
    used: jax.Array
    value: jax.Array  # of the last step's own batch
    rise: jax.Array
    reached: jax.Array  # gradients to the target; 0 is never
    over: jax.Array

    def arrived(self, there: jax.Array) -> "Walk":
        """The gradient that showed the loss is counted too."""
        return self._replace(
            reached=jnp.where(there & (self.reached == 0), self.used + 1, self.reached),
            over=self.over | there,
        )


@dataclasses.dataclass(frozen=True)
class Loop:
    """The steps and read-outs of a run, for any rate and seed; the fields are as in `Runner`."""

    problem: Problem
    entry: Entry
    target: Target | None
    most: int | None

    @property
    def followed(self) -> bool:
        """Whether something other than a known number of steps may end a run."""
        return self.entry.counted or self.target is not None or self.most is not None

    def __call__(
        self, given: Given, at: jax.Array, rate: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, Walk]:
        """Make a run at that rate.

        Returns:
            What was measured at the gradients `at`, NaN after the end; the index of the last of
            these points that was reached; steps and gradients at each of them, of a run that is
            `followed`; what was counted until the end.
        """
        optimizer = self.entry.make(rate)
        inner = given.start, optimizer.init(given.start)
        first = self._read_out(inner, given)
        curves = jnp.full((len(at), len(first)), jnp.nan, first.dtype).at[0].set(first)
        counts, zero, never = jnp.zeros((len(at), 2), jnp.int32), jnp.int32(0), jnp.bool_(False)
        walk = Walk(zero, zero, first[0], jnp.full_like(first[0], -jnp.inf), zero, never)
        target = None if self.target is None else self.target(first[0])
        if target is not None:
            walk = walk.arrived(first[0] <= target)
        step = self._stepper(optimizer, given, target)

        def until_next_point(carry: Any) -> Any:
            inner, walk, point, curves, counts = carry
            begin, end = at[point], at[point + 1]
            if self.followed:
                inner, walk = self._walk(step, inner, walk, target, at[-1], end)
            else:
                cost = self.entry.gradients_per_step
                inner = jax.lax.fori_loop(
                    begin // cost, end // cost, lambda i, c: step(i, c)[:2], inner
                )
            measured = self._read_out(inner, given)
            if target is not None:
                walk = walk.arrived(measured[0] <= target)
            curves = curves.at[point + 1].set(measured)
            counts = counts.at[point + 1].set(jnp.stack([walk.steps, walk.used]))
            return inner, walk, point + 1, curves, counts

        def goes_on(carry: Any) -> jax.Array:
            _, walk, point, curves, _ = carry
            return (point < len(at) - 1) & jnp.isfinite(curves[point, 0]) & ~walk.over

        carry = inner, walk, jnp.int32(0), curves, counts
        _, walk, point, curves, counts = jax.lax.while_loop(goes_on, until_next_point, carry)
        return curves, point, counts, walk

    def _read_out(self, inner: tuple[Params, Any], given: Given) -> jax.Array:
        """What is reported, at the parameters to read and at those to read also."""
        params, state = inner
        found = list[jax.Array]()
        for read in (self.entry.read, *self.entry.also.values()):
            measured = self.problem.measured(read(state, params), given.data, given.validation)
            found += measured.values()
        return jnp.stack([x.astype(self.problem.dtype) for x in found])

    def _stepper(
        self, optimizer: Any, given: Given, target: jax.Array | None
    ) -> Callable[..., Any]:
        """`step(index, (params, state)) -> (params, state, loss)` on the batch of that index."""
        target = target if given.batches is None else None
        search = self.entry.line_search
        step = step_function(self.problem.objective, optimizer, line_search=search, target=target)

        def one_step(index: jax.Array, carry: Any) -> Any:
            batch, key = given.data, {}
            if given.batches is not None:
                chosen = given.batches[index % len(given.batches)]
                batch = jax.tree.map(lambda array: array[chosen], given.data)
            if self.problem.takes_key:
                key = {"key": jax.random.fold_in(given.key, index)}
            return step(*carry, batch, **key)

        return one_step

    def _walk(
        self,
        step: Callable[..., Any],
        inner: Any,
        walk: Walk,
        target: jax.Array | None,
        budget: jax.Array,
        end: jax.Array,
    ) -> tuple[Any, Walk]:
        """Steps until `end` gradients are counted, the target is met or the budget would break."""
        entry, most = self.entry, np.iinfo(np.int32).max if self.most is None else self.most

        def body(carry: Any) -> Any:
            old, walk = carry
            *new, value = step(walk.steps, old)
            cost = entry.cost(old[1], new[1]) if entry.counted else entry.gradients_per_step
            used = walk.used + jnp.asarray(cost, jnp.int32)
            made = (used <= budget) & (walk.steps < most)
            if self.problem.batch_size is None:  # the loss of a step is the one that is reported
                if target is not None:
                    walk = walk.arrived(value <= target)
                    made = made & ~walk.over
                rise = jnp.nan_to_num((value - walk.value) / jnp.abs(walk.value), nan=jnp.inf)
                rise = jnp.where(walk.steps > 0, jnp.maximum(walk.rise, rise), walk.rise)
                walk = walk._replace(rise=rise.astype(walk.rise.dtype))
            over = walk.over | ~made
            if target is not None:
                over = over | ~jnp.isfinite(value)
            walk = walk._replace(value=value.astype(walk.value.dtype), over=over)
            walk = walk._replace(steps=walk.steps + made, used=jnp.where(made, used, walk.used))
            return jax.tree.map(lambda x, y: jnp.where(made, x, y), tuple(new), old), walk

        inner, walk = jax.lax.while_loop(
            lambda carry: ~carry[1].over & (carry[1].used < end), body, (inner, walk)
        )
        return inner, walk._replace(over=walk.over | (walk.used >= budget))
