"""# RKC on a stiff loss

**Lesson**: the stability limit of a stabilized method grows with the square of the number of
stages. At equal gradients `rkc` goes much further than gradient descent where the curvature of some
directions is much larger than that of the others.

A quadratic with curvatures from 0.01 to 100. Each method runs at 0.9 of its own limit.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import odeopt

curvatures = jnp.logspace(-2, 2, 40)
start = jnp.ones(40)
budget = 2000  # gradients


def loss(x):
    return 0.5 * jnp.sum(curvatures * x**2)


def losses(make):
    """Gradients and loss after every step, at 0.9 of the stability limit."""
    rate = 0.9 * make(1.0).stability_limit / 100
    opt = make(rate)
    steps = budget // opt.gradients_per_step

    def step(carry, _):
        x, state = carry
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        x = optax.apply_updates(x, updates)
        return (x, state), (state.gradients, loss(x))

    return jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), length=steps)[1])()


runs = {
    "euler": losses(odeopt.euler),
    "rk4": losses(odeopt.rk4),
    "rkc, 5 stages": losses(lambda h: odeopt.rkc(h, stages=5)),
    "rkc, 20 stages": losses(lambda h: odeopt.rkc(h, stages=20)),
}
ends = {name: float(values[-1]) for name, (_, values) in runs.items()}
assert 50 * ends["rkc, 20 stages"] < ends["euler"] < ends["rk4"]

figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
colors = ("#D55E00", "#E69F00", "#56B4E9", "#0072B2")
for (name, (gradients, values)), color in zip(runs.items(), colors, strict=True):
    few = slice(None, None, max(1, len(values) // 200))
    axes.semilogy(gradients[few], values[few], color=color, label=name)
axes.set(xlabel="gradients", ylabel="loss")
axes.legend()
