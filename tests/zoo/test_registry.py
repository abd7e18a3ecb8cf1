"""What a row of the registry promises is observed; no row, or a wrong one, is a failure."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt.zoo.registry import REGISTRY

BUILDERS = {odeopt.ode_optimizer, odeopt.guard}
# A game must know its players, and what an iterative solve costs is decided as it goes.
KNOWN = {name: entry for name, entry in REGISTRY.items() if not entry.needs}
EXPLICIT = {name: e for name, e in KNOWN.items() if e.family == "explicit" and "-" not in name}
START = jnp.array([1.0, -0.5, 0.2])
TIME = 1.0


def loss(x):
    return jnp.sum(jnp.cosh(x)) + 0.3 * jnp.sin(x[0] * x[1]) + 0.1 * jnp.sum(x) ** 2


def ends(build, *counts):
    """Where so many steps lead in the same time; one program for all counts."""

    def end(n):
        opt = build(TIME / n)

        def step(_, carry):
            x, state = carry
            updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
            return x + updates, state

        x = START.astype(float)
        return jax.lax.fori_loop(0, n, step, (x, opt.init(x)))[0]

    return jax.jit(lambda n: jax.lax.map(end, n))(jnp.array(counts))


def check_order(entry, exact):
    """The error falls by 2^order, or more, when the step is halved."""
    errors = jnp.linalg.norm(ends(entry.build, 16, 32) - exact, axis=1)
    assert np.log2(errors[0] / errors[1]) > entry.order - 0.35, errors


def check_row(entry):
    """Order, gradients, limit and memory are what the optimizer itself says."""
    opt = entry.build(0.1)
    assert opt.order == entry.order
    assert opt.gradients_per_step == entry.gradients
    assert opt.memory == pytest.approx(entry.memory, abs=0.07)
    if entry.limit is not None:
        assert opt.stability_limit == pytest.approx(entry.limit, rel=1e-2)


@pytest.fixture
def exact(x64):
    return ends(odeopt.tsit5, 512)[0]


def test_every_exported_optimizer_has_a_row():
    exported = {
        thing
        for name in dir(odeopt)
        if inspect.isfunction(thing := getattr(odeopt, name))
        and inspect.signature(thing).return_annotation in (odeopt.Optimizer, "Optimizer")
    } - BUILDERS
    assert len(exported) > 30
    assert exported == {entry.function for entry in REGISTRY.values()} & exported


def test_explicit_methods_have_the_order_of_their_rows(exact):
    for entry in EXPLICIT.values():
        check_order(entry, exact)


def test_every_optimizer_says_what_its_row_promises():
    for name, entry in KNOWN.items():
        try:
            check_row(entry)
        except AssertionError as error:
            error.add_note(f"in the row of {name}")
            raise


@pytest.mark.slow
def test_optimizers_of_which_little_is_known_can_be_described():
    for name in set(REGISTRY) - set(KNOWN):
        assert odeopt.describe(REGISTRY[name].build(0.1))["order"] == REGISTRY[name].order


def test_wrong_weights_and_a_wrong_row_fail(exact):
    row = REGISTRY["rk4"]
    # The nodes and the weights of RK4 with two of its weights exchanged: consistent, of order 1.
    wrong = odeopt.solvers.Tableau(
        a=[[1 / 2], [0, 1 / 2], [0, 0, 1]], b=[1 / 3, 1 / 6, 1 / 3, 1 / 6]
    )
    broken = row._replace(function=partial(odeopt.runge_kutta, tableau=wrong))
    for check in (lambda: check_order(broken, exact), lambda: check_row(broken)):
        with pytest.raises(AssertionError):
            check()
    for change in ({"order": 7}, {"limit": 3.0}, {"gradients": 5}, {"memory": 1.0}):
        with pytest.raises(AssertionError):
            check_row(row._replace(**change))
    with pytest.raises(AssertionError):
        check_order(row._replace(order=7), exact)
