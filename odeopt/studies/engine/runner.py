"""All learning rates and seeds of one optimizer on one problem, by one compiled program.

The program is one run: a loop over steps, which ends early where a run diverges. It is compiled
once a device and called for one run after the other, so that each run has the bits that it would
have alone.
"""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .loop import Given, Loop, Target, Walk
from .optimizers import Entry
from .problem import Problem

POINTS = 60
"""Most points of a recorded loss curve, the initial one aside."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        loss: Full-batch loss at the start and at each read-out; NaN after the first one that is
            not finite, where the run stops.
        validation: The "validation" loss of `Problem.measured` there; empty without held-out data.
        ends: What is measured at the last point, by name, at the parameters to read ("last") and
            at those to read also.
        steps, gradients: Steps made, and gradients used, at these points.
        made, used: The same at the end.
        reached: Gradients to the one, included, whose loss is at the target; infinite for a miss.
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
        gradients: Budget of a run; a step that would break it is not made.
        seeds: Seeds that runs may ask for.
        devices: Devices that make the runs, one at a time each; by default the first.
        points: Read-outs of a run: a number of equidistant ones, or their gradients.
        target: `target(initial loss)`, the loss at which a run ends. It is compared with every
            read-out, and on all data with every step.
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
        devices: Sequence[jax.Device] = (),
        *,
        points: int | Sequence[int] = POINTS,
        target: Target | None = None,
        most: int | None = None,
    ) -> None:
        self.problem, self.entry, self.gradients = problem, entry, gradients
        self._loop = Loop(problem, entry, target, most)
        self._points = points
        self._at = self.read_outs(gradients)
        steps = max(1, gradients // entry.gradients_per_step)  # of none there would be no batch
        self._seeds = {
            seed: (problem.start(seed), problem.batches(seed, steps), jax.random.key(seed))
            for seed in seeds
        }
        # Arguments of the program, not constants in it, which XLA would try to fold.
        data = jax.tree.map(jnp.asarray, (problem.data, problem.validation))
        measures = list[str]()  # in their order, which a tree of JAX would not keep
        start = self._seeds[seeds[0]][0]
        jax.eval_shape(lambda *of: measures.extend(problem.measured(*of)), start, *data)
        self._reads, self._measures = ("last", *entry.also), measures
        begin = time.perf_counter()
        traced = jax.jit(lambda *given: self._loop(Given(*given[:-2]), *given[-2:]))
        self._programs = list[Callable[..., Any]]()
        for device in devices or jax.local_devices()[:1]:
            here = jax.device_put(data, device)
            given = *here, *self._seeds[seeds[0]], self._at, problem.dtype(0)
            self._programs.append(functools.partial(traced.lower(*given).compile(), *here))
        self.compile_seconds = time.perf_counter() - begin

    def read_outs(self, gradients: int) -> np.ndarray:
        """Gradients at which a run of that budget is read out, as int32; the first is 0."""
        if not isinstance(self._points, int):
            return np.array([0, *np.minimum(self._points, gradients)], np.int32)
        unit = 1 if self._loop.followed else self.entry.gradients_per_step
        points = min(self._points, self.gradients // unit)
        return (np.arange(points + 1) * (gradients // unit) // points * unit).astype(np.int32)

    def run(
        self,
        runs: Sequence[tuple[float, int]],
        gradients: int | None = None,
        ended: Callable[[int, Curve], bool] = lambda index, curve: True,
    ) -> list[Curve]:
        """Make runs given as (learning rate, seed), one after the other on each device.

        Args:
            runs: Any number; neither order nor grouping nor the number of devices changes a bit.
            gradients: A budget instead of the runner's own; of mini-batches the epochs begin again
                where it is larger.
            ended: Is called with the number of a run and its curve as soon as it ends; False stops
                before the next run, and drops what other devices are at.

        Returns:
            The curves of the runs that were made, in their order: all unless `ended` stopped it.
        """
        at = self._at if gradients is None else self.read_outs(gradients)
        curves: dict[int, Curve] = {}
        x64 = jax.config.values["jax_enable_x64"]  # which every thread has for itself

        def made(program: Callable[..., Any], rate: float, seed: int) -> Curve:
            with jax.enable_x64(x64):
                given = *self._seeds[seed], at, self.problem.dtype(rate)
                begin = time.perf_counter()
                found = jax.block_until_ready(program(*given))
                return self._curve(at, time.perf_counter() - begin, *found)

        waiting, free, goes_on = list(enumerate(runs))[::-1], list(self._programs), True
        going: dict[Future[Curve], tuple[int, Callable[..., Any]]] = {}
        with ThreadPoolExecutor(len(free)) as pool:  # its end waits for what is being made
            while goes_on and (waiting or going):
                while waiting and free:
                    (number, run), program = waiting.pop(), free.pop()
                    going[pool.submit(made, program, *run)] = number, program
                for future in wait(going, return_when=FIRST_COMPLETED).done:
                    number, program = going.pop(future)
                    free.append(program)
                    curves[number] = future.result()
                    if not (goes_on := ended(number, curves[number])):
                        break
        return [curves[number] for number in sorted(curves)]

    def _curve(
        self, at: np.ndarray, seconds: float, curves: Any, point: Any, counts: Any, walk: Walk
    ) -> Curve:
        """The curve of what came out of the program."""
        curves, counts, point = np.asarray(curves, float), np.asarray(counts), int(point)
        steps, gradients = at // self.entry.gradients_per_step, at
        if self._loop.followed:  # points that were not reached are those of the end
            last = np.minimum(np.arange(len(at)), point)
            steps, gradients = counts[last].T
            curves = curves[last] if np.isfinite(curves[point, 0]) else curves
        values = curves[point].reshape(len(self._reads), -1).tolist()
        ends = [dict(zip(self._measures, each, strict=True)) for each in values]
        return Curve(
            loss=curves[:, 0],
            validation=curves[:, 1] if jax.tree.leaves(self.problem.validation) else np.zeros(0),
            ends=dict(zip(self._reads, ends, strict=True)),
            steps=steps,
            gradients=gradients,
            made=int(steps[point]),
            used=int(gradients[point]),
            reached=float(walk.reached) or np.inf,
            rise=np.nan if walk.rise == -np.inf else float(walk.rise),
            seconds=seconds,
        )


def local_devices(count: int) -> list[jax.Device]:
    """The first `count` devices of this process.

    A CPU is one device unless JAX is told otherwise before its first computation, as this does for
    more than one where it still can and `XLA_FLAGS` does not say how many there are.

    Raises:
        ValueError: There are fewer, or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"--devices must be at least 1, not {count}.")
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if count > 1 and jax.config.values["jax_num_cpu_devices"] < count and not told:
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
