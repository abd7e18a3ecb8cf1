r"""# A physics-informed network by linearly implicit Euler

**Lesson**: on a small stiff least-squares problem a solver that uses the curvature needs a few
hundred gradients, Adam thousands.

A network solves $-u'' = \pi^2\sin\pi x$ on the unit interval. Gradients are those
that the state counts. The [how-to page](../how-to/pinn.md) has the loop by itself.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import odeopt

keys = jax.random.split(jax.random.key(0), 3)
start = {
    "w1": jax.random.normal(keys[0], (16,)),
    "b1": jnp.zeros(16),
    "w2": jax.random.normal(keys[1], (16, 16)) / 4,
    "w3": jax.random.normal(keys[2], (16,)) / 4,
}
points = jnp.linspace(0.0, 1.0, 48)


def solution(params, x):
    hidden = jnp.tanh(jnp.tanh(x * params["w1"] + params["b1"]) @ params["w2"])
    return x * (1 - x) * (hidden @ params["w3"])


def residuals(params):
    second = jax.grad(jax.grad(solution, argnums=1), argnums=1)
    return jax.vmap(lambda x: second(params, x) + jnp.pi**2 * jnp.sin(jnp.pi * x))(points)


loss = odeopt.composite(lambda r: jnp.mean(r**2), residuals)


def losses(opt, steps):
    """The loss before every step."""

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = opt.update(grads, state, params, value=value, value_fn=loss)
        return (optax.apply_updates(params, updates), state), value

    opt = optax.with_extra_args_support(opt)
    return jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), length=steps)[1])()


figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
adam = {rate: losses(optax.adam(rate), 6000) for rate in (1e-3, 1e-2)}
implicit = losses(odeopt.linearly_implicit_euler(), 100)
best = min(jnp.min(values) for values in adam.values())
assert 3 * jnp.argmax(implicit < best) < 0.1 * 6000  # it needs less than a tenth of the gradients
for (rate, values), color in zip(adam.items(), ("#E69F00", "#D55E00"), strict=True):
    axes.loglog(1 + jnp.arange(6000)[::20], values[::20], color=color, label=f"adam({rate})")
axes.loglog(1 + 3 * jnp.arange(100), implicit, color="#0072B2", label="linearly_implicit_euler()")
axes.set(xlabel="gradients", ylabel="mean squared residual")
axes.legend()
