"""The laws can fail: each is broken here by an optimizer that is wrong in one place."""

import jax
import jax.numpy as jnp
import optax
import pytest

import odeopt
from odeopt import stepsize, sums
from odeopt.flows import GradientFlow

from . import laws
from .cases import FAULTS, RATE, Configuration
from .runs import Run

pytestmark = pytest.mark.whole

GOOD = FAULTS[0]
SIZE_0 = next(f for f in FAULTS if f.name == "size 0 at the middle")
NAN = next(f for f in FAULTS if f.name == "gradient nan at the middle")
FLAT = next(f for f in FAULTS if f.kind == "flat")


def run_of(make, rule="fixed", dtype="f32"):
    """A run of `make(sizes)` in place of a row of the registry."""
    kind = type("Control", (Configuration,), {"build": lambda self, sizes: make(sizes)})
    return Run(kind("euler", rule, dtype, "plain", "dict"))


def after(change, opt):
    """An optimizer that spoils what another one returns."""

    def update(grads, state, params=None, **extra):
        updates, new = opt.update(grads, state, params, **extra)
        return change(updates, new, state, params)

    return optax.GradientTransformationExtraArgs(opt.init, update)


def fails(law, *arguments):
    with pytest.raises(AssertionError):
        law(*arguments)


class Divides(GradientFlow):
    def increment(self, z, objective, h):
        steps, aux = super().increment(z, objective, h)
        return jax.tree.map(lambda s: h * (s / h), steps), aux


class Drifts(GradientFlow):
    def increment(self, z, objective, h):
        steps, aux = super().increment(z, objective, h)
        return jax.tree.map(lambda s: s + 1e-3, steps), aux


class Unit(GradientFlow):
    """Divides by a norm that it takes in the leaf's own dtype."""

    def increment(self, z, objective, h):
        unit = lambda g: -h.astype(g.dtype) * g / jnp.sqrt(jnp.sum(g * g))
        return jax.tree.map(unit, objective.here(z[0])), z[1]


def flowing(flow):
    return lambda sizes: odeopt.ode_optimizer(flow, odeopt.solvers.Euler(), lambda n: sizes[n])


@pytest.mark.parametrize("flow", [Divides(), Drifts()])
def test_a_step_of_size_0_that_is_not_the_identity(flow):
    run = run_of(flowing(flow), "schedule")
    fails(laws.zero_size_is_the_identity, run, run(SIZE_0), SIZE_0)


def test_motion_without_a_gradient():
    run = run_of(flowing(Drifts()))
    fails(laws.zero_gradient_moves_nothing, run, run(FLAT))


class Trusting(stepsize.AbstractRule):
    """Lets everything through, and keeps a mean of what it saw."""

    rejects = False

    def init(self, params):
        return jnp.zeros([])

    def propose(self, state, info):
        size = 0.9 * state + 0.1 * odeopt.sums.norm(info.objective.here(info.z[0]))
        return jnp.asarray(RATE), size


def test_a_rule_that_keeps_what_is_not_finite():
    run = run_of(lambda sizes: odeopt.euler(Trusting()), "angle")
    fails(laws.one_bad_batch_costs_one_step, run, run(NAN), run(GOOD), NAN)


def leaves_a_trace(updates, new, old, params):
    return updates, new._replace(aux=jax.tree.map(lambda x: 0.9 * x, new.aux))


def counts_twice(updates, new, old, params):
    return updates, new._replace(rejected=old.rejected + 2 * (new.rejected - old.rejected))


def moves(updates, new, old, params):
    return jax.tree.map(lambda u: u + 1e-6, updates), new


def stalls(updates, new, old, params):
    return jax.tree.map(lambda u: jnp.where(new.rejected == 0, u, 0), updates), new


@pytest.mark.parametrize("change", [leaves_a_trace, counts_twice, moves, stalls])
def test_a_rejection_that_leaves_a_trace(change):
    rule = stepsize.angle(first=RATE)
    run = run_of(lambda sizes: after(change, odeopt.heavy_ball(rule, 0.9)), "angle")
    fails(laws.one_bad_batch_costs_one_step, run, run(NAN), run(GOOD), NAN)


def test_an_optimizer_that_does_not_descend():
    rising = lambda updates, new, old, params: (jax.tree.map(jnp.negative, updates), new)
    run = run_of(lambda sizes: after(rising, odeopt.euler(RATE)))
    fails(laws.descends, run, run(GOOD))


def test_a_silent_ruin():
    """Parameters that stay finite, with a momentum that does not."""
    mended = lambda updates, new, old, params: (jax.tree.map(jnp.nan_to_num, updates), new)
    run = run_of(lambda sizes: after(mended, odeopt.heavy_ball(RATE, 0.9)))
    fails(laws.bad_batches_are_not_silent, run, run(NAN), run(GOOD))


def test_a_silent_stop():
    """All stays finite, and the steps of the bad batches are missing."""
    stops = lambda updates, new, old, params: optax.tree.where(
        sums.finite(updates), (updates, new), (optax.tree.zeros_like(updates), old)
    )
    run = run_of(lambda sizes: after(stops, odeopt.euler(RATE)))
    fails(laws.bad_batches_are_not_silent, run, run(NAN), run(GOOD))


def test_updates_in_another_dtype():
    wide = lambda updates, new, old, params: (
        jax.tree.map(lambda u: u.astype(jnp.float32), updates),
        new,
    )
    run = run_of(lambda sizes: after(wide, odeopt.euler(RATE)), dtype="f16")
    fails(laws.keeps_types, run, run(GOOD))


def test_a_weak_type_in_the_state():
    opt = odeopt.euler(RATE)
    weak = optax.GradientTransformationExtraArgs(
        lambda p: opt.init(p)._replace(step_size=jnp.asarray(0.0)), opt.update
    )
    run = run_of(lambda sizes: weak)
    fails(laws.keeps_types, run, run(GOOD))


@pytest.mark.parametrize(
    "lie",
    [
        lambda updates, new, old, params: (updates, new._replace(step_size=2 * new.step_size)),
        lambda updates, new, old, params: (updates, new._replace(rejected=new.rejected + 1)),
    ],
)
def test_a_state_that_lies(lie):
    run = run_of(lambda sizes: after(lie, odeopt.euler(RATE)))
    fails(laws.summary_is_true, run, run(GOOD))


def test_a_state_that_comes_back_otherwise():
    run = run_of(lambda sizes: odeopt.heavy_ball(RATE, 0.9))
    loses = lambda state, empty: state._replace(aux=empty.aux)
    fails(laws.continues_after, run, run(GOOD), GOOD, loses)


def test_a_model_that_is_not_that_of_the_step():
    opt = odeopt.linearly_implicit_euler(stepsize.gain_ratio(first=0.5), "hessian")
    fails(laws.foresees, optax.chain(optax.scale(4.0), opt), 0.5)


def test_a_norm_in_16_bits():
    build = lambda: odeopt.ode_optimizer(Unit(), odeopt.solvers.Euler(), RATE)
    fails(laws.narrow_as_wide, build, 300.0, jnp.float16, {})


def test_a_count_that_lies():
    free = lambda updates, new, old, params: (updates, new._replace(gradients=old.gradients + 1))
    fails(laws.counts_are_true, after(free, odeopt.heun(RATE)))
