"""All learning rates and seeds of one optimizer on one problem, as one compiled program.

The program is a scan over runs around a loop over steps, and hands out each run as it ends. Over
several devices the runs are dealt out, and every device scans its own.
Measured on two cores (digits MLP, 28 runs): scanning the runs compiles five times faster than
`vmap`, is as fast or faster to run, stops diverged runs early, and gives each run the bits it would
have alone.
"""

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .optimizers import Entry
from .problem import Params, Problem
from .steps import step_function

POINTS = 60
"""Most points of a recorded loss curve, the initial one aside."""

Target = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        loss: Full-batch loss at the start and at each read-out; NaN after the first one that is
            not finite, where the run stops.
        validation: The metric on the held-out data at the same points, the first one of several;
            empty without any.
        ends: What is measured at the last point, by name, at the parameters to read ("last") and
            at those to read also.
        steps: Steps of these points.
        gradients: Gradients used at these points.
        made: Steps that were made.
        used: Gradients that they cost.
        reached: Gradients up to and including the one whose loss is at the target; infinite for a
            miss.
        rise: The largest relative rise of the loss in a step; NaN where it was not followed.
        seconds: Wall time of the run, compilation aside.
    """

    loss: np.ndarray
    validation: np.ndarray
    ends: dict[str, dict[str, float]]
    steps: np.ndarray
    gradients: np.ndarray
    made: int
    used: int
    reached: float
    rise: float
    seconds: float

    @property
    def final(self) -> float:
        """The last loss that was read out."""
        return float(self.loss[-1])

    @property
    def status(self) -> str:
        """One of "reached", "diverged": not finite or ended above its start, and "ok"."""
        if np.isfinite(self.reached):
            return "reached"
        return "ok" if np.isfinite(self.final) and self.final <= self.loss[0] else "diverged"

    @property
    def diverged(self) -> bool:
        """Whether the final loss is not finite or above the initial one."""
        return self.status == "diverged"


class Runner:
    """One optimizer on one problem, compiled once for any rates, seeds and budget.

    Args:
        problem: The problem.
        entry: The optimizer.
        gradients: Budget of a run; a step that would break it is not made.
        seeds: Seeds that runs may ask for.
        slots: Runs that one call of the program can make; more runs take more calls.
        devices: Devices that the runs are dealt out to; by default the first.
        points: Read-outs of a run: a number of equidistant ones, or gradients at which to.
        target: `target(initial loss)`, the loss at which a run ends. On all data every step is
            compared with it, and every read-out; of mini-batches the read-outs only.
        most: The most steps of a run, where gradients are not what ends it.

    Attributes:
        compile_seconds: Seconds of tracing and compiling.
    """

    def __init__(
        self,
        problem: Problem,
        entry: Entry,
        gradients: int,
        seeds: Sequence[int],
        slots: int,
        devices: Sequence[jax.Device] = (),
        *,
        points: int | Sequence[int] = POINTS,
        target: Target | None = None,
        most: int | None = None,
    ) -> None:
        self.problem, self.entry, self.gradients = problem, entry, gradients
        self.target, self.most = target, np.iinfo(np.int32).max if most is None else most
        self.followed = entry.counted or target is not None or most is not None
        self._row = {seed: row for row, seed in enumerate(seeds)}
        self._mesh = Mesh(np.array(devices or jax.local_devices()[:1]), "runs")
        self._slots = -(-slots // self._mesh.size) * self._mesh.size
        self._points = points
        self._at = self.read_outs(gradients)
        self._error: BaseException | None = None
        steps = gradients // entry.gradients_per_step
        inits = [problem.start(seed) for seed in seeds]
        batches = [problem.batches(seed, steps) for seed in seeds]
        # Arguments of the program, not constants in it, which XLA would try to fold.
        tables = (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *inits),
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches),
            jax.tree.map(jnp.asarray, problem.data),
            jax.tree.map(jnp.asarray, problem.validation),
            jnp.stack([jax.random.key_data(jax.random.key(seed)) for seed in seeds]),
        )
        self._tables = jax.device_put(tables, NamedSharding(self._mesh, P()))
        measures = list[str]()  # in their order, which a tree of JAX would not keep
        jax.eval_shape(lambda *of: measures.extend(problem.measured(*of)), inits[0], *tables[2:4])
        self._names = [(read, what) for read in ("last", *entry.also) for what in measures]
        begin = time.perf_counter()
        arguments = self._arguments([], self._at)
        self._program = jax.jit(self._build()).lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - begin

    def read_outs(self, gradients: int) -> np.ndarray:
        """Gradients at which a run of that budget is read out, as int32; the first is 0."""
        cost = self.entry.gradients_per_step
        if not isinstance(self._points, int):
            return np.array([0, *np.minimum(self._points, gradients)], np.int32)
        if self.followed:
            points = min(self._points, self.gradients)
            return (np.arange(points + 1) * gradients // points).astype(np.int32)
        points = min(self._points, self.gradients // cost)
        return (np.arange(points + 1) * (gradients // cost) // points * cost).astype(np.int32)

    def run(
        self,
        runs: Sequence[tuple[float, int]],
        gradients: int | None = None,
        ended: Callable[[int, Curve], bool] = lambda index, curve: True,
    ) -> list[Curve]:
        """Make runs given as (learning rate, seed), one after the other on each device.

        Args:
            runs: Any number of them; neither their order nor their grouping nor the number of
                devices changes a bit.
            gradients: A budget instead of the runner's own; of mini-batches the epochs begin again
                where it is larger.
            ended: Is called with the number of a run and its curve as soon as it ends, from
                within the compiled program; False stops before the next run of every device.

        Returns:
            The curves of the runs that were made, in their order: all unless `ended` stopped it.
        """
        at = self._at if gradients is None else self.read_outs(gradients)
        curves: dict[int, Curve] = {}
        clocks = [time.perf_counter()] * self._mesh.size
        begin, going = 0, True
        one_at_a_time = threading.Lock()  # devices call from threads of their own

        def report(slot: int, losses: np.ndarray, point: int, counts: np.ndarray) -> np.bool_:
            nonlocal going
            now, number, device = time.perf_counter(), begin + slot, slot % self._mesh.size
            with one_at_a_time:
                if going and number < len(runs):
                    curve = self._curve(losses, at, point, counts, now - clocks[device])
                    curves[number] = curve
                    going = False  # where `ended` fails the program still comes to its end
                    going = ended(number, curve)
                    clocks[device] = time.perf_counter()  # what `ended` takes belongs to no run
                return np.bool_(going)

        self._report = report
        for begin in range(0, len(runs), self._slots):
            if going:
                block = self._arguments(runs[begin : begin + self._slots], at)
                clocks[:] = [time.perf_counter()] * self._mesh.size
                jax.block_until_ready(self._program(*block))
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
        return [curves[number] for number in sorted(curves)]

    def _curve(
        self, losses: np.ndarray, at: np.ndarray, point: int, counts: np.ndarray, seconds: float
    ) -> Curve:
        curves = np.asarray(losses[: len(at)], float)
        steps, gradients, reached, rise = at // self.entry.gradients_per_step, at, np.inf, np.nan
        if self.followed:  # points that were not reached are those of the end
            last = np.minimum(np.arange(len(at)), point)
            steps, gradients = counts[:-1][last].T
            curves = curves[last] if np.isfinite(curves[point, 0]) else curves
            reached, rise = float(counts[-1, 0]) or np.inf, float(losses[-1, 0])
        ends: dict[str, dict[str, float]] = {}
        for (read, what), value in zip(self._names, curves[point], strict=True):
            ends.setdefault(read, {})[what] = float(value)
        return Curve(
            loss=curves[:, 0],
            validation=curves[:, 1] if jax.tree.leaves(self.problem.validation) else np.zeros(0),
            ends=ends,
            steps=steps,
            gradients=gradients,
            made=int(steps[point]),
            used=int(gradients[point]),
            reached=reached,
            rise=rise if np.isfinite(rise) or rise > 0 else np.nan,
            seconds=seconds,
        )

    def _arguments(self, runs: Sequence[tuple[float, int]], at: np.ndarray) -> tuple[Any, ...]:
        rates = np.full(self._slots, np.nan)  # an empty slot stops before its first step
        rows = np.zeros(self._slots, np.int32)
        for slot, (rate, seed) in enumerate(runs):
            rates[slot], rows[slot] = rate, self._row[seed]
        # Dealt out in turn: neighbours are alike, and a diverged run ends early.
        dealt = np.arange(self._slots, dtype=np.int32).reshape(-1, self._mesh.size).T.ravel()
        rates = rates.astype(self.problem.dtype)
        each = NamedSharding(self._mesh, P("runs"))
        slots = jax.device_put((dealt, rates[dealt], rows[dealt]), each)
        return slots, jax.device_put(at, NamedSharding(self._mesh, P())), self._tables

    def _build(self) -> Callable[..., Any]:
        def program(slots: Any, at: Any, tables: Any) -> jax.Array:
            one = functools.partial(self._one, at, tables)
            return jax.lax.scan(one, jnp.bool_(True), slots)[0][None]

        if self._mesh.size == 1:
            return program
        return jax.shard_map(
            program,
            mesh=self._mesh,
            in_specs=(P("runs"), P(), P()),
            out_specs=P("runs"),
            check_vma=False,  # no device looks at another's
        )

    def _one(
        self, at: jax.Array, tables: Any, going: jax.Array, slot: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, None]:
        """One run, unless `going` is False; a callback carries it out of the program."""
        starts, _, data, validation, _ = tables
        number, rate, row = slot
        start = jax.tree.map(lambda leaf: leaf[row], starts)
        optimizer, points = self.entry.make(rate), len(self._at) - 1
        state = optimizer.init(start)
        first = self._read_out((start, state), data, validation)
        curves = jnp.full((points + 1, len(first)), jnp.nan, first.dtype).at[0].set(first)
        target, walk, counts = None, None, jnp.zeros((0, 2), jnp.int32)
        if self.followed:
            counts = jnp.zeros((points + 1, 2), jnp.int32)
            walk = _Walk.begin(first[0])
            if self.target is not None:
                target = self.target(first[0])
                walk = walk.arrived(first[0] <= target)
        whole = self.problem.batch_size is None
        one_step = self._stepper(optimizer, row, tables, target if whole else None)

        def until_next_point(carry: Any) -> Any:
            inner, point, _, curves, walk, counts = carry
            begin, end = at[point], at[point + 1]
            if walk is None:
                cost = self.entry.gradients_per_step
                inner = jax.lax.fori_loop(
                    begin // cost, end // cost, lambda i, c: one_step(i, c)[:2], inner
                )
            else:
                inner, walk = self._walk(one_step, inner, walk, target, at[-1], end)
            losses = self._read_out(inner, data, validation)
            if walk is not None:
                if target is not None:
                    walk = walk.arrived(losses[0] <= target)
                counts = counts.at[point + 1].set(jnp.stack([walk.steps, walk.used]))
            return inner, point + 1, losses[0], curves.at[point + 1].set(losses), walk, counts

        def goes_on(carry: Any) -> jax.Array:
            _, point, loss, _, walk, _ = carry
            on = going & (point < points) & jnp.isfinite(loss) & jnp.isfinite(rate)
            return on if walk is None else on & ~walk.over

        carry = (start, state), jnp.int32(0), first[0], curves, walk, counts
        _, point, _, curves, walk, counts = jax.lax.while_loop(goes_on, until_next_point, carry)
        if walk is not None:
            curves = jnp.concatenate([curves, jnp.full_like(curves[:1], walk.rise)])
            counts = jnp.concatenate([counts, jnp.stack([walk.reached] * 2)[None]])
        # Carries each run out of the program as it ends: a kill loses only one.
        flag = jax.ShapeDtypeStruct((), jnp.bool_)
        # As bits: in the thread of a callback x64 is not on, and float64 would be cut.
        bits = jax.lax.bitcast_convert_type(curves, jnp.uint32)
        # The next run starts when this has been answered: all the order that is needed.
        return io_callback(self._ended, flag, number, bits, point, counts), None

    def _read_out(self, inner: tuple[Params, Any], data: Any, validation: Any) -> jax.Array:
        """What is reported, at the parameters to read and at those to read also."""
        params, state = inner
        reads = self.entry.read, *self.entry.also.values()
        found = [self.problem.measured(read(state, params), data, validation) for read in reads]
        return jnp.stack([x.astype(self.problem.dtype) for by in found for x in by.values()])

    def _stepper(
        self, optimizer: Any, row: jax.Array, tables: Any, target: jax.Array | None
    ) -> Callable[..., Any]:
        """`step(index, (params, state)) -> (params, state, loss)` on the batch of that index."""
        _, batches, data, _, keys = tables
        problem = self.problem
        step = step_function(problem, optimizer, line_search=self.entry.line_search, target=target)
        rows = max(1, self.gradients // self.entry.gradients_per_step)

        def one_step(index: jax.Array, carry: Any) -> Any:
            batch, key = data, {}
            if batches is not None:
                chosen = batches[row, index % rows]
                batch = jax.tree.map(lambda array: array[chosen], data)
            if problem.takes_key:
                own = jax.random.wrap_key_data(keys[row])
                key = {"key": jax.random.fold_in(own, index)}
            return step(*carry, batch, **key)

        return one_step

    def _ended(
        self, slot: np.ndarray, bits: np.ndarray, point: np.ndarray, counts: np.ndarray
    ) -> np.bool_:
        losses = np.ascontiguousarray(bits).ravel().view(self.problem.dtype)
        try:
            return self._report(
                int(slot), losses.reshape(-1, len(self._names)), int(point), np.asarray(counts)
            )
        except BaseException as error:  # out of the program with it, and raised outside
            self._error = error
            return np.bool_(False)

    def _walk(
        self,
        one_step: Callable[..., Any],
        inner: Any,
        walk: "_Walk",
        target: jax.Array | None,
        budget: jax.Array,
        end: jax.Array,
    ) -> tuple[Any, "_Walk"]:
        """Steps until `end` gradients are counted, the target is met or the budget would break."""
        entry, whole = self.entry, self.problem.batch_size is None

        def goes_on(carry: Any) -> jax.Array:
            _, walk = carry
            return ~walk.over & (walk.used < end)

        def body(carry: Any) -> Any:
            old, walk = carry
            *new, value = one_step(walk.steps, old)
            cost = entry.cost(old[1], new[1]) if entry.counted else entry.gradients_per_step
            used = walk.used + jnp.asarray(cost, jnp.int32)
            made = (used <= budget) & (walk.steps < self.most)
            if target is not None and whole:
                walk = walk.arrived(value <= target)
                made = made & ~walk.over
            if whole:
                rise = jnp.nan_to_num((value - walk.value) / jnp.abs(walk.value), nan=jnp.inf)
                rise = jnp.where(walk.steps > 0, jnp.maximum(walk.rise, rise), walk.rise)
                walk = walk._replace(rise=rise.astype(walk.rise.dtype))
            over = walk.over | ~made
            if target is not None:
                over = over | ~jnp.isfinite(value)
            walk = walk._replace(
                steps=walk.steps + made,
                used=jnp.where(made, used, walk.used),
                value=value.astype(walk.value.dtype),
                over=over,
            )
            return jax.tree.map(lambda x, y: jnp.where(made, x, y), tuple(new), old), walk

        inner, walk = jax.lax.while_loop(goes_on, body, (inner, walk))
        return inner, walk._replace(over=walk.over | (walk.used >= budget))


class _Walk(NamedTuple):
    """What is counted along a run whose end is not known beforehand."""

    steps: jax.Array
    used: jax.Array
    value: jax.Array  # of the last step's own batch
    rise: jax.Array
    reached: jax.Array  # gradients to the target; 0 is never
    over: jax.Array

    @classmethod
    def begin(cls, loss: jax.Array) -> "_Walk":
        zero = jnp.int32(0)
        return cls(zero, zero, loss, jnp.full_like(loss, -jnp.inf), zero, jnp.bool_(False))

    def arrived(self, there: jax.Array) -> "_Walk":
        """The gradient that showed the loss is counted too."""
        return self._replace(
            reached=jnp.where(there & (self.reached == 0), self.used + 1, self.reached),
            over=self.over | there,
        )


def local_devices(count: int) -> list[jax.Device]:
    """The first `count` devices of this process.

    A CPU is one device unless JAX is told otherwise before its first computation, which this does
    where that is still possible.

    Raises:
        ValueError: There are fewer, or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"--devices must be at least 1, not {count}.")
    if jax.config.values["jax_num_cpu_devices"] < count:
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", count)
    found = jax.local_devices()
    if len(found) < count:
        raise ValueError(
            f"--devices is {count}, but this process has {len(found)} of the kind "
            f"{found[0].platform}. (More devices of a CPU must be asked for before JAX first "
            f'computes: `jax.config.update("jax_num_cpu_devices", {count})`.)'
        )
    return found[:count]
