"""Complexity, collapse and margin, against direct formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odeopt.diagnostics import class_distance, geometric_complexity, margin

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (64, 3))
PARAMS = {"w": jax.random.normal(KEY, (3, 8)), "v": jax.random.normal(KEY, (8, 4))}


def model(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def test_complexity_is_the_mean_squared_jacobian():
    jacobians = jax.vmap(jax.jacobian(lambda x: model(PARAMS, x[None])[0]))(X)
    expected = jnp.mean(jnp.sum(jacobians**2, axis=(1, 2)))
    np.testing.assert_allclose(geometric_complexity(model, PARAMS, X), expected, rtol=1e-5)


def test_it_does_not_depend_on_the_shape_of_inputs_and_outputs():
    def shaped(params, x):
        return model(params, jnp.concatenate([x["a"], x["b"][:, :, 0]], axis=1)).reshape(-1, 2, 2)

    inputs = {"a": X[:, :1], "b": X[:, 1:, None]}
    np.testing.assert_allclose(
        geometric_complexity(shaped, PARAMS, inputs),
        geometric_complexity(model, PARAMS, X),
        rtol=1e-5,
    )


@pytest.mark.slow
def test_probes_are_unbiased():
    exact = geometric_complexity(model, PARAMS, X)
    keys = jax.random.split(KEY, 200)
    single = jax.vmap(lambda k: geometric_complexity(model, PARAMS, X, probes=1, key=k))(keys)
    error = jnp.std(single) / len(keys) ** 0.5
    assert abs(jnp.mean(single) - exact) < 4 * error
    many = geometric_complexity(model, PARAMS, X, probes=200, key=KEY)
    assert abs(many - exact) < 4 * error


def test_complexity_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"key=jax\.random\.key"):
        geometric_complexity(model, PARAMS, X, probes=1)
    with pytest.raises(ValueError, match="one output for each input"):
        geometric_complexity(lambda p, x: model(p, x)[:7], PARAMS, X)
    with pytest.raises(ValueError, match="one output for each input"):
        geometric_complexity(lambda p, x: jnp.sum(model(p, x)), PARAMS, X)
    with pytest.raises(ValueError, match="one output for each input"):
        geometric_complexity(model, PARAMS, X[:0])
    with pytest.raises(TypeError, match="returned a dict"):
        geometric_complexity(lambda p, x: {"logits": model(p, x)}, PARAMS, X)


@pytest.mark.untyped
def test_complexity_of_integers_is_refused():
    with pytest.raises(TypeError, match="inputs are int32"):
        geometric_complexity(lambda p, x: x, PARAMS, jnp.arange(3))


@pytest.mark.untyped
@pytest.mark.parametrize("function", [margin, lambda x, labels: class_distance(x, labels, 3)])
def test_vectors_and_labels_are_checked_and_may_be_on_the_host(function):
    labels, vectors = np.arange(64) % 3, np.asarray(X)
    np.testing.assert_array_equal(function(vectors.tolist(), labels.tolist()), function(X, labels))
    for other in (jnp.eye(3)[labels], labels.astype(float), labels[:7]):
        with pytest.raises(ValueError, match="one integer for each of the 64 samples"):
            function(X, other)
    with pytest.raises(ValueError, match=r"one vector for each sample.*reshape"):
        function(X[..., None], labels)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_class_distance_of_16_bit_embeddings_is_summed_in_32(dtype):
    """Counts beyond 256 are rounded in bfloat16, and squares beyond 256^2 overflow in float16."""
    labels = jnp.arange(3000) % 3
    points = 300 * (jax.random.normal(KEY, (3000, 4)) + 0.3 * labels[:, None]) + 50
    low = points.astype(dtype)
    expected = class_distance(low.astype(jnp.float32), labels, 3)
    found = class_distance(low, labels, 3)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_class_distance_is_the_mean_over_pairs():
    labels = np.arange(64) % 3
    points = np.asarray(X) + 2.0 * labels[:, None]
    groups = [points[labels == c] for c in range(3)]
    spread = [np.mean(np.sum((g - g.mean(0)) ** 2, 1)) for g in groups]
    pairs = [
        (spread[i] + spread[j]) / (2 * np.sum((groups[i].mean(0) - groups[j].mean(0)) ** 2))
        for i in range(3)
        for j in range(3)
        if i != j
    ]
    found = class_distance(jnp.asarray(points), jnp.asarray(labels), 3)
    np.testing.assert_allclose(found, np.mean(pairs), rtol=1e-4)
    with_empty = class_distance(jnp.asarray(points), jnp.asarray(labels), 5)
    np.testing.assert_allclose(with_empty, found, rtol=1e-5)


def test_class_distance_has_no_scale_no_place_and_no_orientation():
    labels = jnp.arange(64) % 3
    points = X + 2.0 * labels[:, None]
    turn = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (3, 3)))[0]
    np.testing.assert_allclose(
        class_distance(5.0 * points @ turn + 1.0, labels, 3),
        class_distance(points, labels, 3),
        rtol=1e-4,
    )


def test_margins_are_positive_where_the_class_is_right():
    logits = model(PARAMS, X)
    labels = jnp.arange(64) % 4
    found = margin(logits, labels)
    np.testing.assert_array_equal(found > 0, jnp.argmax(logits, 1) == labels)
    ordered = jnp.sort(logits, 1)
    right = margin(logits, jnp.argmax(logits, 1))
    np.testing.assert_allclose(right, ordered[:, -1] - ordered[:, -2], rtol=1e-5)
