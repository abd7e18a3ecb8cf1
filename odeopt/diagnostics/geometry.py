"""Measures of a trained network's outputs: complexity, collapse, margin."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..checks import check, check_counts, is_whole
from ..sums import inner, widened

Model = Callable[[PyTree[Array], PyTree[Array]], Float[Array, "n ..."]]


def geometric_complexity(
    model: Model,
    params: PyTree[Array],
    inputs: PyTree[Float[Array, "n ..."]],
    *,
    probes: int | None = None,
    key: Array | None = None,
) -> Float[Array, ""]:
    r"""How much the outputs change with the inputs: the Dirichlet energy over a sample.

    $\frac1n\sum_i\|\partial f(x_i)/\partial x_i\|_F^2$ with the outputs $f$ before the softmax.

    Args:
      model: `model(params, inputs) -> outputs`, one output of any shape for each of $n$ inputs,
        which depends on that input alone (no batch statistics).
      params: the parameters of the model.
      inputs: a tree of real arrays with the $n$ samples on their first axis.
      probes: None for the exact value, which costs a gradient for each entry of an output. A
        number for the mean of $\|J^Tv\|^2$ over that many Gaussian probes $v$, which is unbiased
        and costs a gradient each; over many samples one probe is enough.
      key: random key of the probes, such as `jax.random.key(0)`.

    Returns:
      The complexity, a scalar.

    Raises:
      ValueError: `probes` below 1 or without a key; outputs that are not one for each input.
      TypeError: inputs that are not real numbers, outputs that are not one array.

    References: Dherin, Munn, Rosca and Barrett, arXiv:2209.13083; the probe is Hutchinson's.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> model, w = lambda w, x: x @ w, jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> float(odeopt.diagnostics.geometric_complexity(model, w, jnp.ones((5, 2))))
      30.0
    """
    inputs = jax.tree.map(jnp.asarray, inputs)
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(inputs)}
    if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise TypeError(
            f"The inputs are {', '.join(sorted(kinds))}, which have no derivatives: pass floating-"
            "point numbers, such as the embeddings of tokens in place of the tokens."
        )
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(inputs)}
    outputs, back = jax.vjp(lambda x: model(params, x), inputs)
    if not hasattr(outputs, "shape"):
        raise TypeError(
            f"The model returned a {type(outputs).__name__}; it must return one array: write "
            "`lambda params, inputs: model(params, inputs)[...]`."
        )
    if sizes != {outputs.shape[:1]} or sizes <= {(), (0,)}:
        raise ValueError(
            f"The model must return one output for each input: inputs with leading axes "
            f"{sorted(sizes)} gave outputs of shape {outputs.shape}. Samples are the first axis."
        )

    def square(cotangent: Array) -> Float[Array, ""]:
        pulled = back(cotangent)[0]
        return inner(pulled, pulled) / len(outputs)

    if probes is None:
        entries = outputs[0].size
        unit = jnp.eye(entries, dtype=outputs.dtype).reshape(entries, 1, *outputs.shape[1:])
        return jnp.sum(jax.lax.map(lambda e: square(jnp.broadcast_to(e, outputs.shape)), unit))
    check_counts(probes=probes)
    if key is None:
        raise ValueError(
            f"probes is {probes}, key is None: pass a key, `key=jax.random.key(0)`, or no probes."
        )
    draw = functools.partial(jax.random.normal, shape=outputs.shape, dtype=outputs.dtype)
    return jnp.mean(jax.lax.map(lambda key: square(draw(key)), jax.random.split(key, probes)))


def class_distance(
    embeddings: Float[Array, "n d"], labels: Int[Array, " n"], classes: int
) -> Float[Array, ""]:
    r"""How far classes are from collapse: the class-distance normalized variance.

    The mean over pairs of classes of $(v_i + v_j)/(2\|\mu_i - \mu_j\|^2)$, with $\mu_i$ the mean of
    the embeddings of a class and $v_i$ their mean squared distance from it; 0 if every class has
    collapsed to a point of its own.

    Args:
      embeddings: a vector for each sample, such as the last hidden layer.
      labels: the class of each sample, 0 to `classes - 1`.
      classes: the number of classes. A class without a sample does not count.

    Returns:
      The mean over pairs, a scalar, computed in at least float32; NaN if fewer than two classes
      have a sample, infinity or NaN if the means of two classes coincide.

    Raises:
      ValueError: fewer than 2 classes; embeddings that are not one vector, or labels that are not
        one integer, for each sample.

    References: Galanti, György and Hutter, arXiv:2112.15121; Munn, Dherin and Gonzalvo,
    arXiv:2405.15706.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> points, labels = jnp.array([[0.0], [2.0], [9.0], [11.0]]), jnp.array([0, 0, 1, 1])
      >>> round(float(odeopt.diagnostics.class_distance(points, labels, 2)), 4)  # 1 / 81
      0.0123
    """
    must = "a whole number of at least 2: pairs of classes are compared"
    check(lambda number: is_whole(number) and number >= 2, "classes", classes, must)
    embeddings, labels = widened(_rows(embeddings, "embeddings")), _labels(labels, embeddings)
    member = jax.nn.one_hot(labels, classes, dtype=embeddings.dtype)
    count = jnp.sum(member, axis=0)
    weights = member / jnp.maximum(count, 1.0)
    mean = weights.T @ embeddings
    square = jnp.sum((embeddings - mean[labels]) ** 2, axis=-1)
    variance = weights.T @ square
    apart = jnp.sum((mean[:, None] - mean[None, :]) ** 2, axis=-1)
    seen = (count[:, None] > 0) & (count[None, :] > 0) & ~jnp.eye(classes, dtype=bool)
    ratio = (variance[:, None] + variance[None, :]) / (2 * jnp.where(seen, apart, 1.0))
    return jnp.sum(jnp.where(seen, ratio, 0.0)) / jnp.sum(seen)


def margin(logits: Float[Array, "n k"], labels: Int[Array, " n"]) -> Float[Array, " n"]:
    """The margin of each sample: the logit of its own class minus the largest other logit.

    It is negative if the sample is misclassified.

    Args:
      logits: a score for each sample and class.
      labels: the class of each sample.

    Returns:
      A number for each sample.

    Raises:
      ValueError: logits that are not one vector, or labels that are not one integer, for each
        sample.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> odeopt.diagnostics.margin(jnp.array([[3.0, 1.0], [0.0, 4.0]]), jnp.array([0, 0])).tolist()
      [2.0, -4.0]
    """
    logits, labels = _rows(logits, "logits"), _labels(labels, logits)
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(own, -jnp.inf, logits)
    return jnp.sum(jnp.where(own, logits, 0.0), axis=-1) - jnp.max(others, axis=-1)


def _rows(vectors: Float[Array, "n d"], name: str) -> Float[Array, "n d"]:
    vectors = jnp.asarray(vectors)
    if vectors.ndim != 2:
        raise ValueError(
            f"{name} have shape {vectors.shape}; pass one vector for each sample, such as "
            f"`{name}.reshape(len({name}), -1)`."
        )
    return vectors


def _labels(labels: Int[Array, " n"], samples: Float[Array, "n d"]) -> Int[Array, " n"]:
    labels = jnp.asarray(labels)
    if labels.shape != (len(samples),) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}; pass one integer for each of the "
            f"{len(samples)} samples: `labels.astype(int)`, or `jnp.argmax(labels, axis=-1)` of "
            "one-hot rows."
        )
    return labels
