"""# RK4 against SGD on a quadratic

**Lesson**: at the same learning rate RK4 stays on gradient flow while SGD zigzags around it. It
costs four gradients a step instead of one.

Gradient flow is the curve that steepest descent follows with infinitely small steps. A step of
`optax.sgd` is a step of Euler's method along it; a step of `odeopt.rk4` is a step of order 4. The
learning rate of both is 0.95 of Euler's stability limit.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import odeopt

curvatures = jnp.array([1.0, 12.0])
start = jnp.array([-1.0, 0.7])
rate, steps = 0.95 * 2 / 12, 10


def loss(x):
    return 0.5 * jnp.sum(curvatures * x**2)


def path(opt):
    """The iterates of an optimizer, one a row."""
    opt = optax.with_extra_args_support(opt)

    def step(carry, _):
        x, state = carry
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    _, rest = jax.lax.scan(step, (start, opt.init(start)), length=steps)
    return jnp.concatenate([start[None], rest])


sgd, rk4 = path(optax.sgd(rate)), path(odeopt.rk4(rate))
times = rate * jnp.linspace(0, steps, 8 * steps + 1)
flow = start * jnp.exp(-curvatures * times[:, None])
assert jnp.abs(rk4 - flow[::8]).max() < 0.2 * jnp.abs(sgd - flow[::8]).max()

figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
x, y = np.meshgrid(np.linspace(-1.1, 0.2, 30), np.linspace(-0.75, 0.8, 30))
axes.contour(x, y, 0.5 * (x**2 + 12 * y**2), levels=7, colors="#9aa3ad", linewidths=0.6)
axes.plot(*flow.T, color="#6b7280", linewidth=5, alpha=0.5, label="gradient flow")
axes.plot(*sgd.T, "o--", color="#D55E00", label=f"optax.sgd({rate:.2f})")
axes.plot(*rk4.T, "s-", color="#0072B2", label=f"odeopt.rk4({rate:.2f})")
axes.set(xlabel="$x_1$, curvature 1", ylabel="$x_2$, curvature 12", xlim=(-1.1, 0.2))
axes.legend(loc="upper right")
