"""# The spiral of a GAN

**Lesson**: in a game the error of a solver can decide whether training stays bounded. Simultaneous
gradient descent spirals outwards, RK4 at the same learning rate stays on the circle.

The Dirac GAN: a generator of one number and a linear discriminator. The solutions of its
flow are closed orbits around the equilibrium at zero.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import odeopt

losses = {
    "generator": lambda z: -jnp.log1p(jnp.exp(-z["generator"] * z["discriminator"])),
    "discriminator": lambda z: jnp.log1p(jnp.exp(-z["generator"] * z["discriminator"])),
}
gradient = odeopt.game_gradient(losses)
start = {"generator": jnp.array(1.0), "discriminator": jnp.array(0.0)}
rate, steps = 0.4, 200


def orbit(opt):
    """The players after every step, one row each."""

    def step(carry, _):
        z, state = carry
        updates, state = opt.update(gradient(z), state, z, grad_fn=gradient)
        row = jnp.array([z["generator"], z["discriminator"]])
        return (optax.apply_updates(z, updates), state), row

    return jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), length=steps)[1])()


runs = {
    f"simultaneous({rate})": orbit(odeopt.simultaneous(rate)),
    f"alternating({rate})": orbit(odeopt.alternating(rate)),
    f"game_runge_kutta({rate}, RK4)": orbit(odeopt.game_runge_kutta(rate, odeopt.solvers.RK4())),
}
radius = {name: float(jnp.linalg.norm(run[-1])) for name, run in runs.items()}
assert radius[f"simultaneous({rate})"] > 1.5
assert abs(radius[f"game_runge_kutta({rate}, RK4)"] - 1) < 0.01

figure, axes = plt.subplots(figsize=(4.8, 4.2), layout="constrained")
for (name, run), color in zip(runs.items(), ("#D55E00", "#009E73", "#0072B2"), strict=True):
    axes.plot(*run.T, color=color, linewidth=1, label=name)
axes.plot(0, 0, "k+")
axes.set(xlabel="generator", ylabel="discriminator", aspect="equal")
axes.legend(loc="upper right", fontsize="small")
