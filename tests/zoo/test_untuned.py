"""`odeopt.untuned`: its formulas, and what it does with what is degenerate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt

KEY = jax.random.key(0)
PARAMS = {"w": jax.random.normal(KEY, (6, 4)), "b": jnp.zeros(4)}
DATA = jax.random.normal(jax.random.key(1), (40, 16, 6))


def loss(params, x):
    return jnp.mean((jnp.tanh(x @ params["w"]) + params["b"] - jnp.sin(3 * x[:, :4])) ** 2)


def train(opt, params=PARAMS, data=DATA, loss=loss, scale=1.0):
    def step(carry, x):
        params, state = carry
        grads = jax.tree.map(lambda g: scale * g, jax.grad(loss)(params, x))
        updates, state = opt.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params, state = jax.jit(
        lambda: jax.lax.scan(step, (params, opt.init(params)), jnp.asarray(data))[0]
    )()
    return params, state


def by_hand(steps, decay=0.4):
    """The formulas of the docstring in NumPy: parameters and their average after `steps`."""
    p = {k: np.array(v, np.float64) for k, v in PARAMS.items()}
    m, v, s0, a = {k: 0 * x for k, x in p.items()}, 0.0, {"w": 0.0, "b": 0.0}, dict(p)
    slope = steepest = None
    for n in range(steps):
        g = jax.tree.map(
            np.array, jax.grad(loss)(jax.tree.map(jnp.asarray, p), DATA[n].astype(float))
        )
        h = min(12 / steps**0.5, 1.5) * min(
            1, (n + 1) / (0.05 * steps), (steps - n) / (0.95 * steps)
        )
        for k, least in (("w", 0.5 / 6**0.5), ("b", 0.1)):
            m[k] = 0.9 * m[k] + 0.1 * g[k]
            ahead = 0.9 * m[k] / (1 - 0.9 ** (n + 2)) + 0.1 * g[k] / (1 - 0.9 ** (n + 1))
            size = np.sqrt(np.mean(p[k] ** 2))
            s0[k] = s0[k] or max(size, least)
            unit = np.sqrt(s0[k] * max(s0[k], size))
            if k == "w":
                now = np.linalg.norm(g[k])
                slope = now if slope is None else 0.9 * slope + 0.1 * now
                steepest = slope if steepest is None else max(steepest, slope)
                w = decay * min(1.0, max(1 / 3, (steepest / slope / 3) ** 2))
                noise = g[k] - m[k] / (1 - 0.9 ** (n + 1))
                x = np.concatenate([ahead, noise])
                x /= np.linalg.norm(x)
                for _ in range(5):
                    x = 3.4445 * x + (-4.775 * x @ x.T + 2.0315 * (x @ x.T) @ (x @ x.T)) @ x
                u = 0.2 * 6**0.5 * x[:6]
                p[k] = p[k] - h * (unit * u + w * np.sqrt(np.mean(u**2)) * p[k])
            else:
                v = 0.98 * v + 0.02 * g[k] ** 2
                p[k] = p[k] - h * unit * ahead / (np.sqrt(v / (1 - 0.98 ** (n + 1))) + 1e-10)
            a[k] = a[k] + min(1, 17 / (n + 17)) * (p[k] - a[k])
    return p, a


@pytest.mark.slow
def test_it_is_its_formulas(x64):
    wide = jax.tree.map(lambda x: x.astype(float), (PARAMS, DATA))
    params, state = train(odeopt.untuned(len(DATA)), *wide)
    expected, average = by_hand(len(DATA))
    for k in PARAMS:
        np.testing.assert_allclose(params[k], expected[k], rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(
            odeopt.step_params(state, params)[k], average[k], rtol=1e-6, atol=1e-8
        )


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [None, 40])
@pytest.mark.parametrize("scale", [2.0**-10, 2.0**20])
def test_the_scale_of_the_loss_does_not_matter(horizon, scale, x64):
    opt = odeopt.untuned(horizon)
    wide = jax.tree.map(lambda x: x.astype(float), (PARAMS, DATA))  # rounding would be amplified
    one, other = (train(opt, *wide, scale=factor)[0] for factor in (1.0, scale))
    for k in PARAMS:
        np.testing.assert_allclose(other[k], one[k], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [None, 100])
def test_a_zero_gradient_moves_nothing(horizon):
    """A leaf that never had a gradient does not decay either."""
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    for opt in (odeopt.untuned(horizon), odeopt.untuned(horizon, weight_decay=0.0)):
        updates, _ = opt.update(zero, opt.init(PARAMS), PARAMS)
        assert all(bool(jnp.all(u == 0)) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    "params",
    [
        {"row": jnp.ones((1, 5)), "column": jnp.ones((5, 1)), "one": jnp.ones((1, 1))},
        {"b": jnp.ones(3), "s": jnp.ones(())},
        {"zeros": jnp.zeros((4, 3)), "kernel": jnp.ones((3, 3, 2, 4)), "empty": jnp.zeros((0, 2))},
    ],
    ids=["a side of 1", "no matrix", "zeros, a kernel, nothing"],
)
def test_leaves_of_every_kind_descend(params):
    """The gradient of a matrix has rank 1 here."""
    total = lambda p: sum(jnp.sum((x - 0.3) ** 2) for x in jax.tree.leaves(p))
    opt = odeopt.untuned(200)
    end, state = train(opt, params, jnp.zeros(200), lambda p, _: total(p))
    assert total(odeopt.step_params(state, end)) < 0.2 * total(params)


def test_a_side_of_1_is_no_matrix():
    params = {"row": jnp.ones((1, 5)), "column": jnp.ones((5, 1))}
    opt = odeopt.untuned(100)
    updates, _ = opt.update(jax.tree.map(jnp.zeros_like, params), opt.init(params), params)
    assert all(bool(jnp.all(u == 0)) for u in jax.tree.leaves(updates))  # it does not decay


@pytest.mark.parametrize("horizon", [5, 10, 20, 40])
def test_a_short_run_ends_below_its_start(horizon):
    """Noisy values, a network of 20-32-1, batches of 32."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (640, 20))
    y = jnp.sin(x[:, :1]) + 0.5 * jax.random.normal(keys[1], (640, 1))
    params = {
        "in": jax.random.normal(keys[2], (20, 32)) / 20**0.5,
        "out": jax.random.normal(keys[3], (32, 1)) / 32**0.5,
    }

    def squares(p, x, y):
        return jnp.mean((jnp.tanh(x @ p["in"]) @ p["out"] - y) ** 2)

    @jax.jit
    def run(params):
        opt = odeopt.untuned(horizon)

        def step(carry, batch):
            params, state = carry
            updates, state = opt.update(jax.grad(squares)(params, *batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        batches = x.reshape(20, 32, 20), y.reshape(20, 32, 1)
        rows = jax.tree.map(lambda d: jnp.tile(d, (2, 1, 1))[:horizon], batches)
        (params, state), _ = jax.lax.scan(step, (params, opt.init(params)), rows)
        return odeopt.step_params(state, params)

    assert squares(run(params), x, y) < squares(params, x, y)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [0, 7])
@pytest.mark.parametrize("horizon", [None, 40])
def test_a_batch_that_is_not_finite_costs_one_step(horizon, bad):
    """On full batches: with others a run of 40 steps that misses one is another run."""
    opt, everything = odeopt.untuned(horizon), DATA.reshape(-1, 6)
    batches = jnp.stack([everything] * len(DATA))
    params, state = train(opt, data=batches.at[bad].set(jnp.nan))
    assert int(state.rejected) == 1
    whole, _ = train(opt, data=batches)
    assert loss(params, everything) < 1.02 * loss(whole, everything)


def test_past_the_horizon_it_goes_on_at_the_last_rate():
    params, state = train(odeopt.untuned(10))
    assert state.step_size == pytest.approx(1.5 / (0.95 * 10), rel=1e-5)
    assert bool(jnp.all(jnp.isfinite(params["w"])))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"horizon": 0}, "the number of steps that the run will take"),
        ({"horizon": -3}, "horizon is -3"),
        ({"horizon": 10, "learning_rate": 0.1}, "drop one of them"),
        ({"weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_bad_arguments_are_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        odeopt.untuned(**arguments)
