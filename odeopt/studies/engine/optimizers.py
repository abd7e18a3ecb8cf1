"""Who takes part in a study: the zoo, rules for its step sizes, and optax's own baselines.

What theory says of an optimizer is read off the optimizer object. Uses optax and the library.
"""

import dataclasses
import functools
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.interpreters.partial_eval import dce_jaxpr

import odeopt

from ... import solvers, stepsize
from ...checks import is_transformation
from ...flows import GradientFlow
from ...optimizer import Optimizer
from ...state import states, step_params
from ...stepsize.rule import Fixed
from ...zoo.registry import REGISTRY
from ..names import lookup
from .refusals import is_name, line

Make = Callable[[Any], optax.GradientTransformation]
MOMENTUM = 0.9
_STEPS = 8
"""Over which the cost of a step is a mean: a rule may reject some."""
_START = np.ones(16, np.float32)


def _counted(before: Any, after: Any) -> Any:
    """Gradients between two states, as they count them."""
    return after.gradients - before.gradients


def _dearest(before: Any, after: Any) -> Any:
    """The largest count of the states inside, which share one gradient; at least 1."""
    pairs = zip(states(before), states(after), strict=True)
    return jnp.stack([jnp.int32(1), *(_counted(a, b) for (_, a), (_, b) in pairs)]).max()


@dataclasses.dataclass(frozen=True)
class Entry:
    """An optimizer with what theory says about it.

    Attributes:
        name: The name on the command line and in every record.
        make: `make(learning_rate)`, an optax transformation; the rate may be traced.
        limit: R, the largest stable h * lambda on the real axis; `None` where there is none.
        order: Order of accuracy as a solver of gradient flow; `None` where it is not one.
        gradients_per_step: Gradients that one step costs; the least where it is `counted`.
        hyperparameters: Everything fixed besides the learning rate.
        read: `read(state, params)`: the parameters to evaluate, not always those of the gradient.
        also: Other parameters that a run is read out at, by name, as `read`.
        counted: Whether what a step costs is known only when it is made.
        cost: `cost(before, after)` of the states around a step: its gradients, if `counted`.
        line_search: Whether value and gradient of the next step are in the state already.
        tuned: Whether the learning rate is chosen on each problem; else it stays at `unit`.
        unit: The middle of the first grid of rates where theory knows no limit.
        own: Whether it is the user's.
    """

    name: str
    make: Make
    limit: float | None = None
    order: int | None = None
    gradients_per_step: int = 1
    hyperparameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    read: Callable[[Any, Any], Any] = lambda state, params: params
    also: Mapping[str, Callable[[Any, Any], Any]] = dataclasses.field(default_factory=dict)
    counted: bool = False
    cost: Callable[[Any, Any], Any] = _counted
    line_search: bool = False
    tuned: bool = True
    unit: float = 1.0
    own: bool = False


def entry(name: str, make: Make, **known: Any) -> Entry:
    """An entry whose theory is read off the optimizer that `make` returns.

    Of an odeopt optimizer it has the limit, where the learning rate is the step size, the order,
    where the flow is gradient flow, and the cost of a step. Where steps differ in cost, of one
    inside another (`optax.chain`, ...), or with a line search of optax, the cost is what the state
    counts in each run; of any other, one gradient. Fields `known` to be other than that are given.
    """
    optimizer = make(0.1)
    if not isinstance(optimizer, Optimizer):
        return Entry(name, make, **{**_inside(name, optimizer), **known})
    design = optimizer.design
    theory: dict[str, Any] = {"read": step_params}
    fixed = isinstance(design.rule, Fixed)
    if fixed and _is_step_size(make):
        theory["limit"] = optimizer.stability_limit
    if fixed and type(design.flow) is GradientFlow:
        theory["order"] = optimizer.order
    if fixed and design.steps_cost_alike:
        theory["gradients_per_step"] = optimizer.gradients_per_step
    elif known.get("own"):
        theory["counted"] = True
    elif not known.get("counted"):
        theory["gradients_per_step"] = _cost_of_a_step(optimizer)
    return Entry(name, make, **{**theory, **known})


def _is_step_size(make: Make) -> bool:
    """Whether the step size of a fixed rule is the rate itself, and no function of it."""
    for rate in (0.1, 0.3):
        optimizer = make(rate)
        rule = optimizer.design.rule if isinstance(optimizer, Optimizer) else None
        if not (isinstance(rule, Fixed) and np.isclose(rule.step_size, rate)):
            return False
    return True


def _inside(name: str, optimizer: optax.GradientTransformation) -> dict[str, Any]:
    """What its state says of an optimizer around one of ours, or with a line search of optax."""
    try:
        state = optimizer.init(_START)
    except Exception as error:
        raise ValueError(
            f"optimizer {name!r} does not take a plain vector as parameters: {line(error)}. Give "
            "labels and masks as functions of the parameters."
        ) from error
    if any(True for _ in states(state)):
        return {"read": step_params, "counted": True, "cost": _dearest}
    searches = lambda state: optax.tree.get(state, "num_linesearch_steps")  # noqa: E731
    if searches(state) is None:
        return {}
    return {"counted": True, "cost": lambda before, after: 1 + searches(after)}


def _cost_of_a_step(optimizer: optax.GradientTransformation) -> int:
    """Gradients of a step as the state counts them, those of its rule included."""
    update = optax.with_extra_args_support(optimizer).update

    def loss(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.vdot(jnp.arange(1.0, 1 + len(x)), x**2)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        x, state = carry
        value, grads = jax.value_and_grad(loss)(x)
        updates, state = update(grads, state, x, value=value, grad=grads, value_fn=loss)
        return (optax.apply_updates(x, updates), state), None

    (_, state), _ = jax.lax.scan(step, (_START, optimizer.init(_START)), None, _STEPS)
    most = max(int(ode.gradients) for _, ode in states(state))  # of one gradient, where they share
    return max(1, round(most / _STEPS))


BASELINES: dict[str, Callable[[], Entry]] = {
    "sgd": lambda: Entry("sgd", optax.sgd, 2.0, 1),
    "momentum": lambda: Entry(
        "momentum",
        lambda learning_rate: optax.sgd(learning_rate, momentum=MOMENTUM),
        2 * (1 + MOMENTUM),
        hyperparameters={"momentum": MOMENTUM},
    ),
    "adam": lambda: Entry("adam", optax.adam, hyperparameters={"b1": 0.9, "b2": 0.999}),
}
"""Optax's own optimizers, under the names that studies give them."""


def controlled(name: str, make: Callable[..., Any], **options: Any) -> Entry:
    """An optimizer by its own step-size rule, from another first step."""
    rule = make().design.rule
    by_gain = lambda first: make(eqx.tree_at(lambda r: r.first, rule, first))  # noqa: E731
    return entry(name, by_gain, counted=True, **options)


def _named(*families: str) -> dict[str, Callable[[], Entry]]:
    """The zoo's optimizers of these families that need a learning rate only."""
    return {
        name: functools.partial(entry, name, row.function)
        for name, row in REGISTRY.items()
        if row.family in families and not row.arguments and name not in ("untuned", *BASELINES)
    }


_OF_A_RATE: dict[str, Callable[..., Any]] = {
    "relativistic": odeopt.relativistic,
    "rk_momentum": lambda rate: odeopt.rk_momentum(rate, MOMENTUM, solvers.RK4()),
    "rk_adam": lambda rate: odeopt.rk_adam(rate, solvers.RK4()),
    "euler@drift_adjusted": lambda cap: odeopt.euler(stepsize.drift_adjusted(cap=cap)),
    "euler@corridor": lambda cap: odeopt.euler(stepsize.corridor(cap=cap)),
    "bosh3@embedded_error": lambda rtol: odeopt.bosh3(stepsize.embedded_error(rtol, 0.1 * rtol)),
    "adam@angle": lambda first: odeopt.adam(stepsize.angle(first=first)),
    "log_time_adam": lambda first: odeopt.log_time_adam(first=first),
    "rkc": odeopt.rkc,
    "rkc2": lambda rate: odeopt.rkc(rate, order=2),
    "euler@sharpness": lambda safety: odeopt.euler(stepsize.sharpness(safety, every=8, first=4)),
}
_KNOWN: dict[str, dict[str, Any]] = {
    # Near a minimum its limit is the heavy ball's; far from one, steps are bounded anyhow.
    "relativistic": {"limit": None},
    "euler@sharpness": {"counted": True},  # an estimate comes early where the gradient grows
}
_CONTROLLED = ("linearly_implicit_euler", "rosenbrock2", "exponential_euler", "implicit_euler")
OTHERS: dict[str, Callable[[], Entry]] = {
    **_named("momentum", "adaptive"),
    **{n: functools.partial(entry, n, f, **_KNOWN.get(n, {})) for n, f in _OF_A_RATE.items()},
    **{n: functools.partial(controlled, n, REGISTRY[n].function) for n in _CONTROLLED},
}
"""The zoo's optimizers that are not explicit solvers of gradient flow, and `solver@rule`.

What a study varies as the learning rate of a rule is the cap of `drift_adjusted` and `corridor`,
the tolerance of `embedded_error`, the safety of `sharpness`, the first step of `angle`, and of
`gain_ratio` for implicit methods. A step costs what the state counts, Hessian products included.
"""


def makers() -> dict[str, Callable[[], Entry]]:
    """Everything that `--solvers` knows: baselines, explicit solvers of gradient flow, `OTHERS`."""
    return {**_named("explicit"), **OTHERS, **BASELINES}


@functools.cache
def find(name: str) -> Entry:
    """The entry of that name; a `ValueError` says the nearest names where there is none."""
    return lookup("solver", name, makers())()


def contenders(asked: Sequence[Any] | Mapping[str, Make], taken: Iterable[str] = ()) -> list[Entry]:
    """Entries from names, entries, and mappings `{"mine": lambda h: optax.chain(...)}`.

    Names that the study gives its own optimizers, besides those of `makers`, are `taken`.
    """
    found: dict[str, Entry] = {}
    for item in [asked] if isinstance(asked, Mapping) else asked:
        if isinstance(item, str):
            new = [find(item)]
        elif isinstance(item, Entry):
            new = [item]
        elif isinstance(item, Mapping):
            new = [_own(name, make, {*makers(), *taken}) for name, make in item.items()]
        else:
            raise ValueError(
                f"an optimizer is a name or a mapping such as "
                f'{{"mine": lambda h: optax.sgd(h)}}, not a {type(item).__name__}.'
            )
        for one in new:
            if found.setdefault(one.name, one) is not one:
                raise ValueError(
                    f"two optimizers are called {one.name!r}, which tables tell apart by name: "
                    "give one another."
                )
    if not found:
        raise ValueError('no optimizer is given: write {"mine": lambda h: optax.sgd(h)}.')
    return list(found.values())


def _own(name: str, make: Make, taken: Container[str]) -> Entry:
    if isinstance(make, Entry):
        return dataclasses.replace(make, name=name)
    check_own(name, make, taken)
    refuse_one_rate(name, functools.partial(_first_step, make))
    return entry(name, make, own=True)


def check_own(name: Any, make: Any, taken: Container[str]) -> None:
    """Raise a `ValueError` where that is no optimizer of the user's, with a name of its own."""
    if not is_name(name):
        raise ValueError(f'{name!r} is no name: write a text without /, as in {{"mine": make}}.')
    if name in taken:
        raise ValueError(f'{name} is an optimizer of the study: call yours otherwise, "my {name}".')
    try:
        optimizer = make(0.1)
        jax.eval_shape(lambda rate: (make(rate), rate)[1], 0.1)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            f"optimizer {name!r} must take a traced learning rate, as under jax.jit: all rates are "
            "run by one compiled program. Drop float(h) and comparisons of h."
        ) from error
    except Exception as error:
        raise ValueError(
            f"optimizer {name!r}: calling it with a learning rate fails: {line(error)}. Write it "
            "as lambda h: optax.sgd(h)."
        ) from error
    if isinstance(optimizer, optax.MultiSteps):
        raise ValueError(
            f"optimizer {name!r} returns an optax.MultiSteps: write .gradient_transformation() "
            "after it."
        )
    if not is_transformation(optimizer):
        raise ValueError(
            f"optimizer {name!r} returns a {type(optimizer).__name__}, not an optax "
            "transformation: write it as lambda h: optax.sgd(h)."
        )


def _first_step(make: Make, rate: Any) -> Any:
    """Updates and state of the first step with that rate, handed what a study hands over."""

    def loss(x: jax.Array, batch: jax.Array) -> jax.Array:
        return 0.5 * jnp.vdot(batch, x**2)

    optimizer, x = optax.with_extra_args_support(make(rate)), jnp.asarray(_START)
    more = {"value": loss(x, x), "grad": x, "value_fn": loss, "batch": x}
    return optimizer.update(x, optimizer.init(x), x, **more)


def refuse_one_rate(name: str, step: Callable[[Any], Any]) -> None:
    """Raise a `ValueError` where nothing that `step(rate)` returns depends on the rate."""
    try:
        traced = jax.make_jaxpr(step)(0.1).jaxpr
    except Exception:  # its first step on a problem says what fails
        return
    _, used = dce_jaxpr(traced, [True] * len(traced.outvars))
    if not any(used):
        raise ValueError(
            f"optimizer {name!r}: its make(h) ignores h, so that every rate gives the same run: "
            "write lambda h: optax.sgd(h), or optax.chain(..., optax.scale(h)) around one that "
            "takes no rate."
        )
