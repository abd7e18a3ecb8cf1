"""Inside `across` every decision is the whole's, also where a user wrote the rule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import odeopt
from odeopt import stepsize, sums
from odeopt.stepsize import AbstractRule, Verdict

AXES = {"one axis": ((8,), ("data",), P("data")), "two": ((4, 2), ("data", "model"), P("data"))}
STEPS = 6


class TrustRadius(AbstractRule):
    """The rule of docs/extending.md, with any norm."""

    step_size: float
    radius: float
    norm: Callable

    def init(self, params):
        return jnp.asarray(self.step_size, float)

    def propose(self, h, info):
        return h, h

    def judge(self, _, info, h, step):
        short = self.norm(step.update) <= self.radius
        return Verdict(short, jnp.where(short, h, h / 2))

    def failed(self, h):
        return h / 2


class Normalized(AbstractRule):
    """Proposes steps of one length: the size itself is a sum over all parameters."""

    inner: Callable

    def init(self, params):
        return ()

    def propose(self, state, info):
        g = info.objective.here(info.z[0])
        return (0.1 / jnp.sqrt(1 + self.inner(g, g))).astype(float), state


class Careful(AbstractRule):
    """Rejects what `finite` does not find finite."""

    finite: Callable

    def init(self, params):
        return ()

    def propose(self, state, info):
        return jnp.asarray(0.1), state

    def judge(self, state, info, h, step):
        return Verdict(self.finite(step.update), state)


RULES = {
    "norm": lambda of: TrustRadius(1.0, 2.0, of.norm),
    "inner": lambda of: Normalized(of.inner),
    "finite": lambda of: Careful(of.finite),
    "levelled": lambda of: Normalized(lambda g, _: of.levelled(g)[1] ** 2),
}


class Local:
    """What optax and jax.numpy make of one device's part."""

    norm = staticmethod(optax.tree.norm)
    inner = staticmethod(optax.tree.vdot)
    finite = staticmethod(lambda x: jnp.all(jnp.isfinite(x)))


PARAMS = jnp.concatenate([jnp.full(12, 0.01), jnp.linspace(1.0, 4.0, 4)])  # the parts differ


def train(opt, params):
    """All iterates, step sizes and counts of rejections; one gradient is not finite."""

    def step(carry, n):
        x, state = carry
        g = jnp.where((n == 2) & (x > 2.5), jnp.inf, x)
        updates, state = opt.update(g, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), (x, state.step_size, state.rejected)

    return jax.lax.scan(step, (params, opt.init(params)), jnp.arange(STEPS))[1]


def optimizer(rule):
    return odeopt.ode_optimizer(odeopt.flows.GradientFlow(), odeopt.solvers.Euler(), rule)


@pytest.mark.parametrize("layout", AXES)
@pytest.mark.parametrize("name", RULES)
def test_all_parts_decide_as_the_whole_does(name, layout):
    shape, axes, spec = AXES[layout]
    mesh = jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(axes))
    opt = optimizer(RULES[name](sums))
    expected = jax.jit(lambda x: train(opt, x))(PARAMS)
    inside = lambda x: train(odeopt.across(axes, opt), x)
    # an out_spec of P() says, and shard_map checks, that all devices agree
    split = jax.shard_map(inside, mesh=mesh, in_specs=spec, out_specs=(P(None, *spec), P(), P()))
    found = jax.jit(split)(PARAMS)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert found[2][-1] > 0  # something was rejected
    assert not np.array_equal(found[0][-1], PARAMS)  # and something was not


@pytest.mark.parametrize("name", ["norm", "inner", "finite"])
def test_a_decision_of_the_part_is_refused(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    opt = odeopt.across("data", optimizer(RULES[name](Local)))
    one = lambda x: opt.update(x, opt.init(x), x)[0]
    split = jax.shard_map(one, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    with pytest.raises(ValueError, match=r"would decide differently(.|\n)*odeopt\.sums"):
        jax.jit(split)(PARAMS)


def test_a_loss_may_have_an_argument_called_state():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    opt = odeopt.across("data", odeopt.ode_optimizer(
        odeopt.flows.GradientFlow(), odeopt.solvers.Heun(), 0.1
    ))  # fmt: skip
    loss = lambda x, state: jax.lax.psum(jnp.sum((x - state) ** 2), "data")

    def one(x):
        grads = jax.grad(loss)(x, 0.5)
        return opt.update(grads, opt.init(x), x, value_fn=loss, state=0.5)[0]

    split = jax.shard_map(one, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    np.testing.assert_allclose(jax.jit(split)(jnp.ones(16)), -0.09, rtol=1e-5)


SPLIT = odeopt.composite(
    lambda out: jnp.mean((out - 1.0) ** 2), lambda params, batch: batch @ params
)
MEAN = odeopt.composite(
    lambda out: jax.lax.pmean(jnp.mean((out - 1.0) ** 2), "data"),
    lambda params, batch: batch @ params,
)
WHOLE = P()
OF_THE_LOSS = {
    "rk4": odeopt.rk4(0.1),
    "rule": odeopt.euler(stepsize.gain_ratio()),
    "hessian": odeopt.exponential_euler(0.1, curvature="hessian"),
    "gauss-newton": odeopt.linearly_implicit_euler(0.1, solve="cg"),
}


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_the_loss_of_one_device_is_refused_and_the_mean_is_that_of_the_whole_batch(name):
    opt, start = OF_THE_LOSS[name], jnp.ones(3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    batch = jax.random.normal(jax.random.key(0), (32, 3))

    def step(params, batch, loss, mean):
        grads = jax.grad(mean)(params, batch)
        return opt.update(grads, opt.init(params), params, value_fn=loss, batch=batch)[0]

    def parallel(loss, mean=MEAN, specs=WHOLE):
        inside = lambda params, batch: step(params, batch, loss, mean)
        return jax.shard_map(inside, mesh=mesh, in_specs=(specs, P("data")), out_specs=specs)

    with pytest.raises(ValueError, match=r"another loss on every device along 'data'.*pmean\(loss"):
        parallel(SPLIT)(start, batch)
    whole = step(start, batch, SPLIT, SPLIT)
    np.testing.assert_allclose(parallel(MEAN)(start, batch), whole, rtol=1e-4)

    if name in ("hessian", "gauss-newton"):
        return  # whose loops shard_map refuses where parameters differ between devices
    # a run of its own on every device is one
    runs = parallel(SPLIT, SPLIT, P("data"))(jnp.tile(start, 8), batch)
    np.testing.assert_allclose(runs[:3], step(start, batch[:4], SPLIT, SPLIT), rtol=1e-4)
