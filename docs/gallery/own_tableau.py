"""# A tableau of your own

**Lesson**: coefficients are all that a Runge-Kutta optimizer needs. Order, stability polynomial
and limit are computed from them, and a wrong coefficient raises an error.

Kutta's method of order 3 and his 3/8 rule of order 4, written as tableaus, beside Euler's method.
The slope of each line is the order of the method.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import odeopt

kutta = odeopt.solvers.Tableau(a=[[1 / 2], [-1, 2]], b=[1 / 6, 2 / 3, 1 / 6])
three_eighths = odeopt.solvers.Tableau(
    a=[[1 / 3], [-1 / 3, 1], [1, -1, 1]], b=[1 / 8, 3 / 8, 3 / 8, 1 / 8]
)
assert (kutta.order, three_eighths.order) == (3, 4)

jax.config.update("jax_enable_x64", True)
start = jnp.array([1.0, -1.0])


def loss(x):
    return jnp.cosh(x[0]) + 0.5 * (x[1] - jnp.sin(x[0])) ** 2


def end(opt, steps):
    """The point at flow time 1."""

    def step(_, carry):
        x, state = carry
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        return optax.apply_updates(x, updates), state

    return jax.jit(lambda: jax.lax.fori_loop(0, steps, step, (start, opt.init(start)))[0])()


exact = end(odeopt.rk4(1 / 1000), 1000)
numbers = jnp.array([4, 8, 16, 32])
makers = {
    "euler, order 1": odeopt.euler,
    "Kutta, order 3": lambda h: odeopt.runge_kutta(h, kutta),
    "3/8 rule, order 4": lambda h: odeopt.runge_kutta(h, three_eighths),
}
figure, axes = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
for (name, make), marker in zip(makers.items(), "os^", strict=True):
    errors = jnp.array([jnp.linalg.norm(end(make(1 / n), n) - exact) for n in numbers.tolist()])
    order = float(jnp.log2(errors[-2] / errors[-1]))
    assert abs(order - int(name[-1])) < 0.3
    axes.loglog(1 / numbers, errors, marker=marker, label=f"{name}: measured {order:.2f}")
axes.set(xlabel="learning rate", ylabel="error at flow time 1")
axes.legend()
