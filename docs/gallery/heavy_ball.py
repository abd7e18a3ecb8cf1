r"""# Heavy ball and its modified flow

**Lesson**: a heavy ball with learning rate h and momentum b follows gradient flow at the rate
h/(1 - b). It follows the flow of a loss with a gradient penalty more closely: the penalty explains
most of the difference.

The modified loss is $E + \tfrac h4\tfrac{1 + b}{(1 - b)^2}\|\nabla E\|^2$. Both flows are
integrated with RK4. The figure shows how far each is from the iterates.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import odeopt

rate, momentum, steps = 0.002, 0.8, 150
effective = rate / (1 - momentum)
strength = 0.25 * rate * (1 + momentum) / (1 - momentum) ** 2
start = jnp.array([1.0, -1.5])


def loss(x):
    return jnp.cosh(2 * x[0]) + 0.5 * (x[1] - jnp.sin(x[0])) ** 2


def path(opt, value_fn):
    """The iterates, from the start on."""

    def step(carry, _):
        x, state = carry
        updates, state = opt.update(jax.grad(value_fn)(x), state, x, value_fn=value_fn)
        return (optax.apply_updates(x, updates), state), x

    return jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), length=steps)[1])()


def penalized(x):
    return loss(x) + strength * jnp.sum(jax.grad(loss)(x) ** 2)


ball = path(odeopt.heavy_ball(rate, momentum), loss)
plain = path(odeopt.rk4(effective), loss)
modified = path(odeopt.rk4(effective), penalized)


def distance(flow):
    """Of the iterates from a flow. The ball starts at rest, which delays it by b/(1 - b) steps."""
    delay = round(momentum / (1 - momentum))
    return jnp.linalg.norm(ball[delay:] - flow[: steps - delay], axis=1)


late = slice(20, None)
assert distance(modified)[late].max() < 0.7 * distance(plain)[late].max()

figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
axes.semilogy(distance(plain), color="#6b7280", label="gradient flow at the rate h/(1 - b)")
axes.semilogy(distance(modified), color="#0072B2", label="the same with the gradient penalty")
axes.set(xlabel="step", ylabel="distance from the heavy ball")
axes.legend()
