"""What the laws are tested on: every optimizer with every rule, dtype, wrapper and tree, in pairs.

A *configuration* is one of each. A *case* is a configuration with a *fault*: something that goes
wrong in a run, given as data, so that a configuration is compiled once.
"""

import functools
import inspect
import itertools
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

import odeopt
from odeopt import stepsize
from odeopt.zoo.registry import REGISTRY

CALLS = 64  # of update, in every run
BAD = {"start": 0, "middle": CALLS // 8, "end": CALLS - 2}  # calls at which something is not finite
SEED = 0
TOLERANCE = 1e-2  # of error control
RATE = 0.05  # stable for every optimizer on the losses below
SIZES = {"rmsprop": 0.01, "adam": 0.02, "log_time_adam": 0.02, "muon": 0.02, "soap": 0.02}


class Point(NamedTuple):
    """A node that is no dict, list or tuple."""

    u: Any
    v: Any


# leaves by their shapes; None is masked
TREES: dict[str, Any] = {
    "dict": {"a": (2,), "b": (3,)},
    "nested": {"x": (Point((2,), ()), None), "y": (0, 2), "z": [(3,), (2, 3)]},
    "single": (3,),
    "scalar": (),
}
DTYPES: dict[str, tuple[bool, tuple[Any, ...]]] = {  # with 64 bits; of the leaves, in turn
    "f16": (False, (jnp.float16,)),
    "bf16": (False, (jnp.bfloat16,)),
    "f32": (False, (jnp.float32,)),
    "f64": (True, (jnp.float64,)),
    "mixed": (False, (jnp.float32, jnp.bfloat16, jnp.float16)),
    "mixed64": (True, (jnp.float64, jnp.bfloat16, jnp.float32)),
    "complex": (False, (jnp.complex64,)),
}
RULES: dict[str, Callable[[float, Any], Any]] = {  # of the usual size, and a size for each step
    "fixed": lambda size, sizes: size,
    "schedule": lambda size, sizes: lambda step: sizes[step],
    "angle": lambda size, sizes: stepsize.angle(first=size),
    "embedded_error": lambda size, sizes: stepsize.embedded_error(TOLERANCE, TOLERANCE, first=size),
    "gain_ratio": lambda size, sizes: stepsize.gain_ratio(first=size),
    "sharpness": lambda size, sizes: stepsize.sharpness(
        0.2, every=5, products=2, first=4, cap=2 * size
    ),
    "drift_adjusted": lambda size, sizes: stepsize.drift_adjusted(cap=size),
    "corridor": lambda size, sizes: stepsize.corridor(cap=size),
}


def _is_shape(node: Any) -> bool:
    return type(node) is tuple and all(isinstance(n, int) for n in node)


def params_of(tree: str, dtype: str) -> Any:
    """Parameters away from the minimum, which is at 0."""
    dtypes = itertools.cycle(DTYPES[dtype][1])
    starts = itertools.cycle([1.0, -0.75, 0.5, -1.25, 0.875])

    def leaf(shape: tuple) -> jax.Array:
        kind, size = next(dtypes), int(np.prod(shape))
        values = np.array([next(starts) for _ in range(size)]).reshape(shape)
        unit = 1 - 0.5j if jnp.issubdtype(kind, jnp.complexfloating) else 1.0
        return jnp.asarray(values * unit, kind)

    return jax.tree.map(leaf, TREES[tree], is_leaf=_is_shape)


def loss(params: Any) -> Any:
    """Convex, with curvatures from 1 to 4, 0 at the minimum; also of NumPy's arrays."""
    flat = [jnp.ravel(x) for x in jax.tree.leaves(params)]
    wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in flat]
    squares = [jnp.real(x) ** 2 + jnp.imag(x) ** 2 for x in wide]
    own = sum(jnp.sum((0.5 + 0.25 * (i % 2)) * s + 0.02 * s**2) for i, s in enumerate(squares))
    mean = sum(jnp.sum(jnp.real(x)) for x in wide)
    return own + 0.05 * mean**2


def _first_leaf(params: Any) -> Any:
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [i == 0 for i in range(len(leaves))])


def _but_first(params: Any) -> Any:
    return jax.tree.map(lambda own: not own, _first_leaf(params))


def _labels(params: Any) -> Any:
    return jax.tree.map(lambda own: "own" if own else "other", _first_leaf(params))


def _build(name: str, rule: Any) -> Any:
    return REGISTRY[name].build(rule)


STATIC = ("stages", "order", "damping", "max_stages")  # of rkc


def _inject(name: str, rule: Any) -> Any:
    entry = REGISTRY[name]
    static = (*STATIC, *(k for k, v in entry.arguments.items() if isinstance(v, int)))
    known = [k for k in static if k in inspect.signature(entry.function).parameters]
    inject = optax.inject_hyperparams(entry.function, static_args=known)
    return inject(learning_rate=rule, **entry.arguments)


def _multi_steps(name: str, rule: Any) -> Any:
    skip = optax.skip_not_finite  # without it optax keeps a NaN for ever
    return optax.MultiSteps(_build(name, rule), 2, should_skip_update_fn=skip)


def _across(name: str, rule: Any) -> Any:
    """Leaves with an axis are split, here over one device; `test_sharding` has eight."""
    inside = odeopt.across("part", _build(name, rule))
    mesh = jax.make_mesh((1,), ("part",), axis_types=(jax.sharding.AxisType.Auto,))

    def split(tree: Any) -> Any:
        return jax.tree.map(lambda x: P("part") if jnp.ndim(x) else P(), tree)

    def update(grads: Any, state: Any, params: Any, *, value: Any, **functions: Any) -> Any:
        def whole(params: Any) -> Any:
            return jax.lax.psum(functions["value_fn"](params), "part")

        def part(grads: Any, state: Any, params: Any, value: Any) -> Any:
            extra = functions | {"value": value, "value_fn": whole}
            return inside.update(grads, state, params, **extra)

        arguments = grads, state, params, value
        specs = tuple(map(split, arguments))
        return jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=specs[:2])(*arguments)

    return optax.GradientTransformationExtraArgs(inside.init, update)


WRAPPERS: dict[str, Callable[[str, Any], Any]] = {
    "plain": _build,
    "guard": lambda name, rule: odeopt.guard(_build(name, rule)),
    "chain": lambda name, rule: optax.chain(optax.scale(1.0), _build(name, rule)),
    "inject": _inject,
    "masked": lambda name, rule: optax.chain(
        optax.masked(optax.set_to_zero(), _but_first), optax.masked(_build(name, rule), _first_leaf)
    ),
    "multi_transform": lambda name, rule: optax.multi_transform(
        {"own": _build(name, rule), "other": odeopt.euler(RATE)}, _labels
    ),
    "multi_steps": _multi_steps,
    "compensated": lambda name, rule: odeopt.compensated(_build(name, rule)),
    "across": _across,
}
PARTIAL = ("masked", "multi_transform")  # the optimizer owns the first leaf only
IMPOSSIBLE = {"across", "scalar"}  # there is nothing to split; `test_sharding` sees it refused


class Configuration(NamedTuple):
    """One of each."""

    optimizer: str
    rule: str
    dtype: str
    wrapper: str
    tree: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def promotion(self) -> str:
        """No dtype is promoted by chance, but in transformations of optax that rely on it."""
        return "standard" if self.wrapper in ("inject", "multi_steps") else "strict"

    @property
    def size(self) -> float:
        """The usual step size."""
        return next((s for name, s in SIZES.items() if name in self.optimizer), RATE)

    def build(self, sizes: Any) -> Any:
        """The optimizer in its wrapper; `sizes`: of every step, for a schedule."""
        return WRAPPERS[self.wrapper](self.optimizer, RULES[self.rule](self.size, sizes))

    @property
    def x64(self) -> bool:
        """Whether it runs with 64 bits."""
        return DTYPES[self.dtype][0]


class Fault(NamedTuple):
    """What goes wrong: factors of one entry of the gradient, of the value, and of the loss inside.

    All are 1 where nothing goes wrong. `kind` chooses the laws.
    """

    name: str
    kind: str
    gradient: np.ndarray
    value: np.ndarray
    inside: np.ndarray
    sizes: np.ndarray  # factors of the step size, by steps
    scale: float = 1.0  # of the loss


def _faults() -> list[Fault]:
    ones = np.ones(CALLS, np.float32)
    good = Fault("none", "none", ones, ones, ones, ones)
    found = [good, good._replace(name="flat", kind="flat", scale=0.0)]
    for where, (place, at) in itertools.product(("gradient", "value", "inside"), BAD.items()):
        for bad in (np.nan, np.inf, -np.inf):
            factors = ones.copy()
            factors[at] = bad
            name = f"{where} {bad} at the {place}"
            found.append(good._replace(name=name, kind=f"bad {where}", **{where: factors}))
    twice = ones.copy()
    twice[[BAD["middle"], BAD["middle"] + 1]] = np.nan, np.inf
    found.append(good._replace(name="two bad batches", kind="bad gradient", gradient=twice))
    for place, at in {"start": [0], "middle": [5, 6], "end": range(9, CALLS)}.items():
        sizes = ones.copy()
        sizes[list(at)] = 0.0
        found.append(good._replace(name=f"size 0 at the {place}", kind="zero", sizes=sizes))
    return found


FAULTS = _faults()

# flows whose moments have the dtype of the parameters, as in optax: squares in float16 overflow
MOMENTS_OF_OPTAX = ("adam", "rmsprop", "sign", "spectral")

# What may be refused, as a pattern of the message, and why that is right.
REFUSALS: dict[str, str] = {
    r"needs .* does not have": "a rule without what it looks at",
    r"no error estimate": "a rule without what it looks at",
    r"largest stable step is not a multiple": "sharpness says nothing of a normalized gradient",
    r"limit needs hyper-parameters that are known": "they are traced in inject_hyperparams",
    r"has no stability limit": "sharpness needs a limit to take a fraction of",
    r"but the players are": "players are the top level of a tree, and take turns",
    r"correction= and error control exclude each other": "the estimate is that of the plain method",
    r"sees the part of one device": "in `across` diffrax's root finders solve for what they see",
    r"nothing to add to staged=True": "a staged step is rounded before it could be compensated",
    r"are solved in one dtype of 32 bits or more": "diffrax's root finders know no other",
}


def refusal(error: Exception) -> str:
    """The reason that fits.

    Raises:
      AssertionError: none does.
    """
    for pattern, reason in REFUSALS.items():
        if re.search(pattern, str(error), re.S):
            return reason
    raise AssertionError(f"refused for no documented reason: {type(error).__name__}: {error}")


@functools.cache
def pairs() -> tuple[dict[tuple[str, str], str], list[tuple[str, str]]]:
    """Optimizers with rules: those that are refused when built, with the reason; the others."""
    refused, built = {}, []
    for pair in itertools.product(REGISTRY, RULES):
        name, rule = pair
        try:
            _build(name, RULES[rule](RATE, jnp.ones(CALLS)))
        except (ValueError, TypeError) as error:
            refused[pair] = refusal(error)
        else:
            built.append(pair)
    return refused, built


def cases_of(configuration: Configuration) -> list[Fault]:
    """The faults that it can meet."""
    scheduled = configuration.rule == "schedule"
    return [fault for fault in FAULTS if fault.kind != "zero" or scheduled]


@functools.cache
def configurations(number: int) -> tuple[Configuration, ...]:
    """So many, always the same: every two choices occur together, as far as they can.

    First a covering array, built greedily; then others at random, all in random order.
    """
    draw = random.Random(SEED)
    _, built = pairs()
    factors: list[list[Any]] = [built, list(DTYPES), list(WRAPPERS), list(TREES)]

    def two(row: tuple) -> set:
        (name, rule), *rest = row
        return set(itertools.combinations(enumerate((name, rule, *rest)), 2))

    @functools.cache
    def with_(*fixed: tuple[int, Any]) -> list[tuple[str, str]]:
        return [p for p in built if all(p[i] == v for i, v in fixed)]

    def at_random(*fixed: tuple[int, Any]) -> tuple:
        row = [draw.choice(choices) for choices in factors]
        own = [(i, v) for i, v in fixed if i < 2]
        for place, value in fixed:
            if place < 2:
                row[0] = draw.choice(with_(*own))
            else:
                row[place - 1] = value
        return at_random(*fixed) if set(row) >= IMPOSSIBLE else tuple(row)

    choices = [sorted({n for n, _ in built}), sorted({r for _, r in built}), *factors[1:]]
    open_ = {((0, n), (1, r)) for n, r in built}
    for (i, a), (j, b) in itertools.combinations(enumerate(choices), 2):
        if (i, j) != (0, 1):
            open_ |= {((i, x), (j, y)) for x in a for y in b if {x, y} != IMPOSSIBLE}
    chosen: dict[tuple, None] = {}
    while open_:
        target = min(open_)
        row = max((at_random(*target) for _ in range(20)), key=lambda r: len(two(r) & open_))
        open_ -= two(row)
        chosen[row] = None
    while len(chosen) < number:
        chosen[at_random()] = None
    rows = list(chosen)
    draw.shuffle(rows)
    return tuple(Configuration(*pair, *rest) for pair, *rest in rows)
