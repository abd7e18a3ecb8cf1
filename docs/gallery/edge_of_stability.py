"""# Edge of stability at R/h

**Lesson**: the sharpness of a network rises until it reaches R/h, the stability limit R of the
solver over the learning rate h. RK4's R is larger than Euler's, so RK4 ends at a larger sharpness.

A network of one hidden layer fits scattered targets in full batch. The horizontal lines are R/h
for each method; the curves are the largest eigenvalue of the Hessian along training.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import odeopt

keys = jax.random.split(jax.random.key(0), 4)
inputs = jax.random.normal(keys[0], (32, 4))
targets = jax.random.normal(keys[1], (32,))
start = {
    "w1": 0.5 * jax.random.normal(keys[2], (4, 32)),
    "w2": jax.random.normal(keys[3], (32,)) / 32**0.5,
}
rate, every, records = 0.1, 100, 50


def loss(params):
    return jnp.mean((jnp.tanh(inputs @ params["w1"]) @ params["w2"] - targets) ** 2)


def sharpness_along(opt):
    """The sharpness after every 100 steps."""

    def step(_, carry):
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params), state, params, value_fn=loss)
        return optax.apply_updates(params, updates), state

    def record(carry, _):
        sharpness = odeopt.diagnostics.sharpness(loss, carry[0]).value
        return jax.lax.fori_loop(0, every, step, carry), sharpness

    carry = start, opt.init(start)
    return jax.jit(lambda: jax.lax.scan(record, carry, length=records)[1])()


figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
for name, opt, color in (
    ("euler", odeopt.euler(rate), "#D55E00"),
    ("rk4", odeopt.rk4(rate), "#0072B2"),
):
    limit = opt.stability_limit / rate
    sharpness = sharpness_along(opt)
    assert 0.9 * limit < jnp.max(sharpness[-10:]) < 1.2 * limit
    axes.plot(every * jnp.arange(records), sharpness, color=color, label=f"{name}({rate})")
    axes.axhline(limit, color=color, linestyle=":", label=f"R/h = {limit:.1f}")
axes.set(xlabel="step", ylabel="sharpness")
axes.legend()
