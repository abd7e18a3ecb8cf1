"""The race on small problems: its counts, what it calls solved, and hypergradient descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from benchmarks import sif

with jax.enable_x64(True):
    BOWL = sif.Problem(
        "bowl",
        lambda x: 0.5 * jnp.sum(jnp.array([1.0, 3.0, 10.0]) * x**2),
        jnp.array([1.0, -2.0, 0.5]),
    )


@pytest.fixture(autouse=True)
def _in_double_precision():
    with jax.enable_x64(True):
        yield


def by_name(gradients=500):
    return {one.entry.name: one for one in sif.contestants(gradients)}


@pytest.mark.slow
def test_every_optimizer_counts_its_gradients_and_comes_down():
    for name, one in by_name().items():
        walked = sif.walk(BOWL, one, gradients=500, seconds=60)
        costs = np.diff(walked.gradients, prepend=0, axis=1)
        assert walked.gradients[:, -1].min() >= 500
        assert (costs >= 0).all()
        if not one.entry.counted:
            assert (costs == 1).all()
        lowest = walked.losses.min()
        assert lowest < 1e-3 * BOWL.loss(BOWL.start), name


def test_a_budget_of_seconds_ends_a_run():
    walked = sif.walk(BOWL, by_name()["log_time_adam"], gradients=10**9, seconds=0.0)
    assert walked.gradients.shape == (1, sif.CHUNK)


def test_levels_are_shares_of_the_way_to_the_lowest_loss():
    def to(problem, level="to 0.001"):
        rows = sif.race(problem, [by_name()["lbfgs"]], gradients=500, seconds=60)
        return rows[0][level]

    scaled = BOWL._replace(loss=lambda x: BOWL.loss(x) + 7.0)
    assert to(BOWL) == to(scaled) <= to(BOWL, "to 1e-06") < np.inf
    below = BOWL._replace(lowest=-float(BOWL.loss(BOWL.start)))
    assert to(below) == np.inf


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_hypergradients_are_gradients_of_the_trial_loss(momentum):
    opt = sif.hypergradient(0.1, 0.01)
    value_fn = lambda x, batch: BOWL.loss(x)
    x, d = BOWL.start, jnp.array([0.1, 0.2, -0.1])
    value, g = jax.value_and_grad(BOWL.loss)(x)
    sizes = jnp.array([0.1, 0.05, 0.02])
    state = opt.init(x)._replace(sizes=sizes, momentum=jnp.float64(momentum), moved=d)
    _, new = opt.update(g, state, x, value=value, value_fn=value_fn)

    by_size, by_momentum = jax.grad(lambda p, b: BOWL.loss(x - p * g + b * d), argnums=(0, 1))(
        sizes, momentum
    )
    # The first step of AdaGrad is its rate times the sign.
    np.testing.assert_allclose(new.sizes - sizes, -0.1 * jnp.sign(by_size), rtol=1e-6)
    expected = np.clip(momentum - 0.01 * jnp.sign(by_momentum), 0, 0.9995)
    np.testing.assert_allclose(new.momentum, expected, rtol=1e-6)


def test_hypergradient_descent_never_climbs():
    walked = sif.walk(BOWL, by_name()["hypergradient descent"], gradients=500, seconds=60)
    assert (np.diff(walked.losses, axis=1) <= 0).all()


def test_near_is_within_four_times_the_best_rival():
    runs = pd.DataFrame(
        [
            (problem, name, rival, gradients, np.inf)
            for problem, *row in (("a", 10, 40, 41), ("b", np.inf, 90, 5), ("c", *[np.inf] * 3))
            for name, rival, gradients in zip("xyz", (True, False, False), row, strict=True)
        ],
        columns=["problem", "optimizer", "rival", "to 0.001", "to 1e-06"],
    )
    found = sif.summary(runs).query("level == 0.001").set_index("optimizer")
    assert list(found.problems) == [2, 2, 2]  # nobody solves c
    assert list(found.solved) == [1, 2, 2]
    assert list(found.near) == [1, 2, 1]  # where no rival solves it, whoever does is near
    assert list(found.fewest) == [1, 0, 1]
