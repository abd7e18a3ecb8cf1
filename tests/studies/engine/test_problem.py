"""Problems of a user: plain functions, Flax, Equinox; and what is no problem."""

import dataclasses
import functools

import diffrax
import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from optax import contrib

import odeopt
from odeopt.studies import (
    Problem,
    benchmark,
    drift,
    equivalence,
    iterative,
    order,
    spectra,
    stability,
    stiff,
)
from odeopt.studies.engine import page
from odeopt.studies.engine.checksums import fingerprint
from odeopt.studies.engine.optimizers import Entry, contenders
from odeopt.studies.engine.steps import refuse_broken

X = np.linspace(-1, 1, 24, dtype=np.float32)[:, None]
Y = np.sin(3 * X)
STUDIES = [one.STUDY for one in (benchmark, drift, equivalence, order, stability, stiff)]
SMALL = {"solvers": ["sgd", "rk4"], "seeds": 1, "gradients": 24}


def plain():
    def loss(params, batch):
        x, y = batch
        return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)

    def init(seed):
        a, b = jax.random.split(jax.random.key(seed))
        return {"w": jax.random.normal(a, (1, 8)), "v": 0.1 * jax.random.normal(b, (8, 1))}

    return Problem(loss, init, (X, Y), name="plain")


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(8)(x)))


def with_flax():
    model = Net()
    return Problem(
        lambda params, batch: jnp.mean((model.apply(params, batch["x"]) - batch["y"]) ** 2),
        lambda seed: model.init(jax.random.key(seed), X[:1]),
        {"x": X, "y": Y},
        name="flax",
        batch_size=8,
    )


def with_equinox():
    def loss(model, batch, key):
        x, y = batch
        noise = 0.01 * jax.random.normal(key, x.shape)
        return jnp.mean((jax.vmap(model)(x + noise) - y) ** 2), {"aux": 1}

    return Problem(
        loss,
        lambda seed: eqx.nn.MLP(1, 1, 8, 1, activation=jax.nn.tanh, key=jax.random.key(seed)),
        (X, Y),
        name="equinox",
        has_aux=True,
        validation=(X, Y),
        metric=lambda model, held: jnp.max(jnp.abs(jax.vmap(model)(held[0]) - held[1])),
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain, with_flax, with_equinox])
def test_a_model_of_ones_own_is_raced(make):
    problem = make()
    assert problem.dtype == np.float32
    results = stability.run(problems=[problem], **SMALL)
    runs = results.of("run")
    assert set(runs.problem) == {problem.name}
    assert (runs.status == "ok").any()
    assert set(runs.gradients[runs.status == "ok"]) == {24}
    assert "sgd" in results.verdict
    assert bool(len(runs.validation.iloc[0])) == bool(problem.metric)


@pytest.mark.slow
def test_a_problem_runs_in_the_precision_it_was_made_in():
    assert not plain().x64
    with jax.enable_x64(True):
        assert plain().x64
        assert plain().dtype == np.float64
    wide = dataclasses.replace(plain(), x64=True)
    assert wide.dtype == np.float64
    assert {leaf.dtype for leaf in jax.tree.leaves(wide.start(1))} == {np.dtype(float)}


@pytest.mark.slow
def test_two_optimizers_of_ones_own_take_part_and_theory_is_read_off_them():
    import optax

    mine = {"mine": lambda h: optax.chain(optax.clip(1.0), optax.sgd(h)), "ours": odeopt.heun}
    results = stability.run(problems=[plain()], solvers=["sgd", mine], seeds=1, gradients=12)
    about = results.of("run").drop_duplicates("optimizer").set_index("optimizer")
    assert list(about.gradients_per_step) == [1, 1, 2]
    assert about.R.round(3).tolist()[2] == 2.0
    assert np.isnan(about.R["mine"])


@pytest.mark.slow
def test_own_problems_are_resumed_and_others_are_not(tmp_path):
    out = tmp_path / "out"
    first = stability.run(problems=[plain()], out=out, **SMALL)
    again = stability.run(problems=[plain()], out=out, resume=True, **SMALL)
    assert again.records == first.records
    loss, init = plain().loss, plain().init
    for other in (
        Problem(loss, init, (X, 2 * Y), name="plain"),
        Problem(loss, init, (X, Y), name="plain", weight_decay=0.1),
        Problem(loss, init, (X, Y), name="plain", batch_size=8),
        Problem(lambda p, b: 100 * loss(p, b), init, (X, Y), name="plain"),
        Problem(loss, lambda seed: init(seed + 1), (X, Y), name="plain"),
    ):
        with pytest.raises(ValueError, match="other settings"):
            stability.run(problems=[other], out=out, resume=True, **SMALL)


@pytest.mark.slow
def test_whatever_decides_a_run_changes_the_version():
    """Arrays inside a jitted loss, starts of other seeds, an optimizer of these parameters."""

    def version(target=1.0, spread=1.0):
        held = jnp.full(2, target)
        loss = jax.jit(lambda params, batch: jnp.sum((params - held) ** 2))
        return Problem(loss, lambda seed: seed * spread * jnp.ones(2), ()).version

    assert version() == version()
    assert len({version(), version(target=2.0), version(spread=2.0)}) == 3

    def make(scale):
        def update(grads, state, params=None):
            return {"mine": -scale * grads["mine"]}, state

        return lambda rate: optax.GradientTransformation(lambda params: (), update)

    assert fingerprint(make(1.0)) == fingerprint(make(1.0)) != fingerprint(make(2.0))


def test_a_python_float_trains_and_weight_decay_is_not_of_what_is_held_out():
    problem = Problem(
        lambda params, batch: jnp.mean((batch - params["b"]) ** 2),
        lambda seed: {"b": 0.5},
        np.ones(3, np.float32),
        validation=np.ones(3, np.float32),
        weight_decay=2.0,
    )
    assert jax.tree.map(jnp.shape, problem.start(0)) == {"b": ()}
    measured = problem.measured(problem.start(0), problem.data, problem.validation)
    assert float(measured["loss"]) == 0.25 + 0.25
    assert float(measured["validation"]) == 0.25


def test_a_changed_optimizer_is_another_setting(tmp_path):
    out, given = tmp_path / "out", {"problems": [plain()], "seeds": 1, "gradients": 12}

    def clipped(size):
        return {"clipped": lambda h: optax.chain(optax.clip(size), optax.sgd(h))}

    def tabled(*factors):
        table = np.float32(factors)
        return {"tabled": lambda h: optax.sgd(lambda n: h * jnp.asarray(table)[n % 2])}

    about = [
        stability.STUDY.about(stability.Settings(solvers=["sgd", tabled(1, end)])) for end in (1, 0)
    ]
    assert about[0] != about[1]  # though they differ in an array only
    first = stability.run(solvers=["sgd", clipped(1.0)], out=out, **given)
    assert "clipped (" in str(stability.STUDY.about(first.settings))
    stability.run(solvers=["sgd", clipped(1.0)], out=out, resume=True, **given)
    with pytest.raises(ValueError, match="other settings"):
        stability.run(solvers=["sgd", clipped(1e-3)], out=out, resume=True, **given)


def test_what_tables_tell_apart_by_name_has_one_each():
    with pytest.raises(ValueError, match="two problems are called"):
        stability.Settings(problems=[plain(), plain()])
    with pytest.raises(ValueError, match="two optimizers are called 'mine'"):
        stability.Settings(solvers=[{"mine": optax.sgd}, {"mine": optax.adam}])


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 1, 3)])
def test_the_spectrum_of_a_quadratic_needs_no_vector(shape):
    values = np.array([1.0, 2.0, 5.0], np.float32)
    bowl = Problem(
        lambda params, batch: 0.5 * jnp.sum(batch * sum(x.ravel() ** 2 for x in params)),
        lambda seed: [jnp.ones(shape)],
        values,
        quadratic=True,
    )
    np.testing.assert_allclose(spectra.eigenvalues(bowl, 0), values, rtol=1e-6)


def test_what_is_held_out_is_in_the_summary(tmp_path):
    held = Problem(
        line,
        start,
        (X[:16], Y[:16]),
        validation=(X[16:], Y[16:]),
        metric=lambda params, batch: {"worst": jnp.max(jnp.abs(batch[0] * params - batch[1]))},
    )
    table = stability.run(problems=[held], out=tmp_path / "out", **SMALL).table("summary")
    assert (table.metric == table.worst).all()
    assert (table.metric**2 >= table.validation).all()


@pytest.mark.slow
def test_metrics_have_any_name_and_each_problem_its_own():
    def named(name, value):
        metric = lambda params, held: {name: jnp.float32(value)}
        return Problem(line, start, (X, Y), name=name, validation=(X, Y), metric=metric)

    held = [named("order", 3), named("problem", 4)]
    found = stability.run(problems=held, solvers=["sgd", "heun"], seeds=1, gradients=8)
    table = found.table("summary").set_index(["problem", "optimizer"])
    assert table.metric["order", "sgd"] == table["metric order"]["order", "sgd"] == 3
    assert table.metric["problem", "heun"] == 4
    assert table.order["order", "heun"] == 2
    again = {"rivals": ["momentum+linear"], "seeds": 1, "gradients": 8}
    table = benchmark.run(problems=[held[0], named("score", 5)], **again).table("summary")
    assert set(table.metric[table.problem == "order"]) == {3}
    assert set(table.metric[table.problem == "score"]) == {5}
    assert 5 not in set(table.score)


@pytest.mark.slow
def test_a_line_search_of_optax_is_a_contender():
    searched = {"lbfgs": optax.lbfgs}
    found = stability.run(problems=[plain()], solvers=["sgd", searched], seeds=1, gradients=12)
    cost = found.table("summary").set_index("optimizer").gradients_per_step
    assert cost["sgd"] == 1
    assert cost["lbfgs"] >= 2  # a line search evaluates at least once more


def line(params, batch):
    return jnp.mean((batch[0] * params - batch[1]) ** 2)


def start(seed):
    return jnp.zeros(())


@pytest.mark.cheap
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": lambda p, b: (b[0] * p - b[1]) ** 2}, r"shape \(24, 1\).*jnp\.mean"),
        ({"loss": lambda p, b: jnp.int32(1)}, r"returns int32 of shape \(\), not one real"),
        ({"loss": lambda p, b: (line(p, b), 1)}, "has_aux=True"),
        ({"has_aux": True}, r"returns \(loss, aux\); it does not"),
        ({"loss": lambda p: p}, r"loss\(params, batch\) fails"),
        ({"loss": 3}, "loss= and init= are functions"),
        ({"init": lambda seed: jnp.zeros((), int)}, "init gives whole numbers.*write 0.0 for 0"),
        ({"init": lambda seed: {"w": 0}}, r"whole numbers at \['w'\]"),
        ({"init": lambda key: jax.random.normal(key, (2,))}, r"jax\.random\.key\(seed\)"),
        ({"init": lambda seed: ()}, "init gives no floating-point array"),
        ({"data": (X, Y[:20]), "batch_size": 4}, "20 and 24 rows.*one row an example"),
        ({"data": (X, Y[:20])}, r"fails on arrays of shapes \(24, 1\), \(20, 1\)"),
        ({"data": ([1.0], Y)}, r"data hold a float: give arrays"),
        ({"data": scipy.sparse.eye(3).tocsr()}, r"data hold a csr_matrix: give arrays"),
        ({"x64": "yes"}, "x64 is 'yes': write True"),
        ({"data": (X, Y.astype(str))}, r"no numbers: .*np\.unique\(y, return_inverse=True\)"),
        ({"data": (X, Y.astype(object))}, "values of type object, which are no numbers"),
        ({"validation": (X, Y.astype(str))}, "which are no numbers"),
        ({"loss": lambda p, b, rng: line(p, b)}, r"needs rng .* argument key, loss\(params, batch"),
        (
            {"loss": lambda p, b, *, key, scale: scale * line(p, b)},
            "needs scale besides params and batch",
        ),
        ({"batch_size": 25}, "batch_size is 25, which must be 1 to 24"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 8.0}, "batch_size is 8.0: write a whole number"),
        ({"batch_size": 8, "data": ()}, "data= holds none"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"weight_decay": "a"}, "weight_decay is 'a'"),
        ({"init": lambda seed: jnp.full((), jnp.nan)}, "NaN or infinity"),
        ({"metric": lambda p, v: p}, "give validation data too"),
        ({"validation": (X, Y[:20])}, "fails on validation="),
        (
            {"validation": (X, Y[:, 0])},
            r"\[1\] \(1,\), and one of validation= .*\[1\] \(\): give",
        ),
        (
            {"validation": np.stack([X, Y])},
            r"one of validation= is \(24, 1\): give a tree like",
        ),
        ({"validation": (X, Y), "metric": lambda p, v: v[0]}, "'metric' is not one real number"),
        ({"validation": (X, Y), "metric": 3}, "fails on validation=: TypeError"),
        ({"validation": (X, Y), "metric": lambda p, v: {"loss": p}}, 'a metric is called "loss"'),
        ({"init": lambda seed: jnp.ones((), jnp.complex64)}, "complex parameters"),
        ({"init": lambda seed: np.random.default_rng().normal(size=3)}, r"default_rng\(seed\)"),
        (
            {
                "loss": odeopt.composite(
                    lambda o, b: jnp.mean((o - b[1]) ** 2), lambda p, b: b[0] * p
                )
            },
            r"odeopt\.composite of b: call the data batch",
        ),
        (
            {"loss": odeopt.composite(lambda o, batch: o, line), "weight_decay": 0.1},
            "weight_decay= is in neither part of its odeopt.composite.*: leave it out",
        ),
        ({"loss": lambda p, b: jnp.float32(float(p))}, "is compiled: write it with jax.numpy"),
        (
            {"validation": (X, Y), "metric": lambda p, v: np.mean(np.asarray(v[0] * p))},
            r"fails on validation=.* compiled: write it with jax\.numpy",
        ),
    ],
)
def test_what_is_no_problem_says_in_one_line_what_to_write(changes, message):
    given = {"loss": line, "init": start, "data": (X, Y), "name": "mine", **changes}
    with pytest.raises(ValueError, match=message) as error:
        Problem(**given)
    assert "'mine'" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_held_out_may_be_of_another_kind_where_the_loss_is_not_of_it():
    metric = lambda params, inputs: {"validation": jnp.mean(inputs * params)}
    other = Problem(line, start, (X, Y), validation=X[:, 0], metric=metric)
    assert set(other.measured(other.start(0), other.data, other.validation)) == {
        "loss",
        "validation",
    }
    assert Problem(line, start, (X, Y), validation=[X[:5], Y[:5]])  # another sequence


@pytest.mark.parametrize("name", [None, 5, " ", "a/b"])
def test_a_name_is_a_text_without_a_slash(name):
    with pytest.raises(ValueError, match="its name stands in tables: write a text without /"):
        Problem(line, start, (X, Y), name=name)


class Model(eqx.Module):
    weight: jax.Array
    scale: float
    depth: int = eqx.field(static=True, default=0)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (lambda seed: jnp.ones(1 + seed), r"float32\[2\], and init\(0\) gives float32\[1\]: give"),
        (
            lambda seed: {"ab"[seed]: jnp.ones(1)},
            r"\['b'\] float32\[1\], and init\(0\) gives \['a'\]",
        ),
        (lambda seed: jnp.ones(1, ["float32", "float16"][seed]), r"gives float16\[1\], and init"),
        (lambda seed: jnp.ones(1) / (1 - seed), r"init\(1\) gives NaN or infinity"),
        (lambda seed: jnp.ones(1) * (1 // (1 - seed)), r"init\(1\) fails: ZeroDivisionError"),
        (lambda seed: Model(jnp.ones(1), 1.0 + seed), r"init\(1\) and init\(0\) differ in a value"),
        (lambda seed: Model(jnp.ones(1), 1.0, seed), r"init\(1\) and init\(0\) differ in a value"),
    ],
)
def test_what_is_wrong_at_another_seed_only_is_refused_there(init, message):
    own = Problem(lambda params, batch: sum(map(jnp.sum, jax.tree.leaves(params))), init, (X, Y))
    with pytest.raises(ValueError, match=message):
        own.start(1)


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_where_nothing_curves_upwards_rates_are_no_multiples_of_a_limit(sign, tmp_path):
    own = Problem(lambda params, batch: sign * jnp.sum(params**2), lambda s: jnp.ones(2), (X, Y))
    found = stability.run(problems=[own], solvers=["sgd", "heun"], seeds=1, gradients=8)
    rates = {run["learning_rate"] for run in found.kind("run")}
    assert 1.0 in rates
    assert min(rates) > 0
    assert found.verdict.startswith("No. " if sign else "No run ended with a lower loss")
    assert found.table("summary").best_relative_rate.isna().all()
    assert page.write(found, tmp_path).exists()  # no axis is of numbers that are not positive
    with pytest.raises(ValueError, match=r"largest curvature at the initial point.*is"):
        _ = equivalence.Bench(own).sharpness
    with pytest.raises(ValueError, match=r"largest curvature at the initial point.*is"):
        _ = drift.Bench(own, 1, 1, 1).plan


@pytest.mark.slow
def test_a_solver_without_a_stability_limit_is_named_in_the_verdict():
    names = ["sgd", {"mine": odeopt.linearly_implicit_euler}]
    found = stability.run(problems=[plain()], solvers=names, seeds=1, gradients=20)
    assert found.verdict.startswith("No. mine has no stability limit; at equal gradients")


@pytest.mark.slow
def test_an_optimizer_whose_first_step_fails_or_cannot_be_counted_is_refused():
    fails = lambda h: optax.GradientTransformationExtraArgs(optax.sgd(h).init, lambda g, s: (g, s))
    for make, message in {
        fails: "fails in its first step on 'plain': TypeError",
        lambda h: odeopt.from_diffrax(diffrax.Kvaerno3(), h): "gradients that cannot be counted",
    }.items():
        with pytest.raises(ValueError, match=message):
            refuse_broken(plain(), contenders({"mine": make})[0])


def test_an_optimizer_that_asks_for_more_than_a_study_hands_over_is_told_what_to_take():
    def asks(rate):
        def update(grads, state, params, *, grad_fn, **more):
            return optax.sgd(rate).update(grad_fn(params), state, params)

        return optax.GradientTransformationExtraArgs(optax.sgd(rate).init, update)

    def sam(rate, opaque):
        return contrib.sam(optax.sgd(rate), optax.sgd(0.01), opaque_mode=opaque)

    for make, message in {
        asks: r"hands over no grad_fn=.*one gradient a step\.$",
        lambda h: sam(h, True): r"take \*\*extra_args there, or return optax\.Gradient.*\.$",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            refuse_broken(plain(), contenders({"mine": make})[0])
        assert "\n" not in str(error.value)
    bare = {"mine": lambda h: optax.GradientTransformation(*sam(h, False))}
    refuse_broken(plain(), contenders(bare)[0])


def test_an_optimizer_whose_state_changes_its_type_is_refused():
    def counts(rate):
        return optax.GradientTransformation(
            lambda params: 0, lambda grads, state, params=None: (grads, state + 1)
        )

    def adds(rate):
        return optax.GradientTransformation(
            lambda params: jnp.int32(0), lambda grads, state, params=None: (grads, state + rate)
        )

    refuse_broken(plain(), Entry("counts", counts))
    with pytest.raises(ValueError, match=r"'adds' has another state .*\(float32\[\]\) than"):
        refuse_broken(plain(), Entry("adds", adds))


def test_an_optimizer_that_the_budget_has_no_step_of_is_in_the_tables():
    own = Problem(line, start, (X, Y), name="own")
    found = stability.run(
        problems=[own], solvers=["sgd", {"mine": optax.lbfgs}], seeds=1, gradients=2
    )
    steps = found.of("run").set_index("optimizer").steps["mine"]
    assert steps.min() == 0
    assert np.isfinite(found.table("summary").best_rate_per_gradient).all()


@pytest.mark.cheap
def test_no_optimizer_at_all_is_refused():
    with pytest.raises(ValueError, match="no optimizer is given"):
        stability.run(solvers={})


def test_a_loss_without_parameters_has_nothing_to_compare():
    flat = Problem(lambda params, batch: 1.0, start, (X, Y), name="flat")
    found = stability.run(problems=[flat], solvers=["sgd", "heun"], seeds=1, gradients=8)
    assert found.verdict.startswith("No run ended with a lower loss")


def test_an_optimizer_that_gives_nan_at_once_is_refused():
    broken = {"broken": lambda h: optax.chain(optax.scale(jnp.nan), optax.sgd(h))}
    with pytest.raises(ValueError, match="'broken' gives NaN or infinity in its first step"):
        stability.run(problems=[plain()], solvers=["sgd", broken], seeds=1, gradients=12)


def divergence(params, batch):
    """Of Kullback and Leibler from targets that are 0 or 1, where 0 log 0 is NaN."""
    inputs, targets = batch
    logits = jax.nn.log_softmax(inputs * params)
    return jnp.mean(jnp.sum(targets * (jnp.log(targets) - logits), axis=-1))


@pytest.mark.cheap
@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_loss_that_is_not_finite_at_the_start_is_refused_by_every_study(study, batch_size):
    targets = np.eye(3, dtype=np.float32)[np.arange(24) % 3]
    init = lambda seed: jnp.ones(3)
    lost = Problem(divergence, init, (X, targets), name="lost", batch_size=batch_size)
    with pytest.raises(ValueError, match="problem 'lost' has a loss of nan at the initial point"):
        study.run(problems=[lost])


@pytest.mark.cheap
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": (np.where(X > 0, X, np.nan), Y)}, "on data=, .* data= has NaN or infinity in it"),
        ({"data": (X[:0], Y[:0])}, "data= has an array without numbers: give one row an example"),
        ({"validation": (X, Y + np.nan)}, "on validation=, .* validation= has NaN"),
        (
            {"loss": lambda p, b: line(p, b) + jnp.log(b[0].min() + 1), "validation": (X, Y)},
            r"on data=, .* change init= or data=",
        ),
    ],
)
def test_where_a_loss_is_not_finite_at_the_start_it_says_what_to_change(changes, message):
    lost = Problem(**{"loss": line, "init": start, "data": (X, Y), **changes}, name="lost")
    with pytest.raises(ValueError, match=message):
        stability.run(problems=[lost], **SMALL)


@pytest.mark.cheap
@pytest.mark.parametrize(
    "loss",
    [
        lambda params, batch, grad=1.0: grad * line(params, batch),
        lambda params, batch, value=1.0: value * line(params, batch),
        lambda params, batch, value_fn=1.0: value_fn * line(params, batch),
    ],
)
def test_no_other_argument_of_a_loss_is_taken_for_what_an_optimizer_is_handed(loss):
    ends = [
        stability.run(problems=[Problem(one, start, (X, Y))], **SMALL).of("run").final_loss
        for one in (loss, line)
    ]
    np.testing.assert_allclose(*ends, rtol=1e-5)


@pytest.mark.parametrize("study", [stability, stiff, benchmark])
def test_an_optimizer_that_fails_on_the_last_problem_fails_before_the_first(study, tmp_path):
    """And can be mended: a folder without a run is bound to no optimizer."""

    def halved(updates, state, params=None):
        return 0.5 * updates, state  # of one array, no tree of them

    def numbers(h):
        halving = optax.GradientTransformation(optax.init_empty_state, halved)
        return optax.chain(optax.sgd(h), halving)

    tree = lambda params, batch: line(params["w"], batch)
    problems = [
        Problem(line, start, (X, Y), name="array"),
        Problem(tree, lambda seed: {"w": start(seed)}, (X, Y), name="tree"),
    ]
    name = "rivals" if study is benchmark else "solvers"
    given = {"problems": problems, "seeds": 1, "gradients": 8, "out": tmp_path / "out"}
    with pytest.raises(ValueError, match="'mine' fails in its first step on 'tree'"):
        study.run(**{name: {"mine": numbers}}, **given)
    assert not (tmp_path / "out" / "runs.jsonl").read_text()
    assert study.run(**{name: {"mine": optax.sgd}}, resume=True, **given).records


@pytest.mark.parametrize("study", [stability, stiff, benchmark])
def test_an_optimizer_with_a_run_is_not_tried_again_where_a_study_is_resumed(
    study, tmp_path, monkeypatch
):
    problem = Problem(line, start, (X, Y))
    given = {"problems": [problem], "seeds": 1, "gradients": 8, "out": tmp_path / "out"}
    given["rivals" if study is benchmark else "solvers"] = {"mine": optax.sgd}
    tried = []
    refuse = lambda problem, one: tried.append(one.name) or refuse_broken(problem, one)
    monkeypatch.setattr("odeopt.studies.engine.race.refuse_broken", refuse)
    first = study.run(**given)
    assert tried == ["mine"]
    assert study.run(**given, resume=True).records == first.records
    assert tried == ["mine"]


def _residual(params, batch):
    return jnp.tanh(batch[0] @ params) - batch[1]


def _of_model(model, batch):
    return jax.vmap(model)(batch[0]) - batch[1]


def _half_mean(outputs, batch):
    return 0.5 * jnp.mean(outputs**2)


@pytest.mark.cheap
@pytest.mark.parametrize(
    "problem",
    [
        Problem(
            odeopt.composite(lambda o, batch: (_half_mean(o, batch), o), _residual),
            lambda seed: jnp.ones((1, 1)),
            (X, Y),
            has_aux=True,
        ),
        Problem(
            odeopt.composite(_half_mean, _of_model),
            lambda seed: eqx.nn.MLP(1, 1, 2, 1, key=jax.random.key(seed)),
            (X, Y),
        ),
    ],
    ids=["aux", "model"],
)
def test_a_composite_loss_keeps_its_parts_with_aux_and_in_a_model(problem):
    assert iterative.least_squares_rows(problem) == len(X)
    params, split = problem.start(0), problem.objective.split({"batch": problem.data}, None)
    value = jax.jit(problem.objective)(params, problem.data)
    np.testing.assert_allclose(value, split.loss(split.predict(params)), rtol=1e-6)
    one = split.predict_one(params, {"batch": jax.tree.map(lambda x: x[0], problem.data)})
    np.testing.assert_allclose(one, split.predict(params)[0], rtol=1e-5)
    measured = problem.measured(params, problem.data, ())
    np.testing.assert_allclose(measured["loss"], value, rtol=1e-6)


def test_what_is_called_quadratic_is():
    other = Problem(lambda p, b: jnp.mean(jnp.cosh(b[0] * p)), start, (X, Y), quadratic=True)
    with pytest.raises(ValueError, match=r"says quadratic=True, but .* leave quadratic= out"):
        stability.run(problems=[other], **SMALL)


def test_the_limit_of_mini_batches_is_not_compared_with_that_of_all_data():
    own = Problem(line, start, (X, Y), quadratic=True)
    for problem, words in (
        (own, {"holds"}),
        (dataclasses.replace(own, batch_size=4), {"not measured"}),
    ):
        found = stability.run(problems=[problem], **SMALL)
        assert {v.word for v in found.claims if v.claim.name == "limits"} == words


def test_a_limit_that_is_off_the_grid_contradicts_theory():
    """From the minimum of a direction no step leaves it, however large."""
    still = Problem(
        lambda p, b: jnp.sum(b * p**2),
        lambda seed: jnp.array([0.0, 1.0]),
        (np.array([9.0, 1.0], np.float32)),
        quadratic=True,
    )
    found = stability.run(problems=[still], **SMALL)
    assert {v.word for v in found.claims if v.claim.name == "limits"} == {"does not hold"}


def test_arrays_of_numpy_train_as_those_of_jax_do():
    numpy = Problem(line, lambda seed: np.zeros(()), (X, Y))
    assert isinstance(numpy.start(0), jax.Array)
    assert (numpy.dtype, numpy.version) == (np.float32, Problem(line, start, (X, Y)).version)


def test_data_without_rows_are_all_seen_by_an_optimizer_of_ones_own():
    scalar = Problem(lambda params, batch: (params - batch) ** 2, start, np.float32(3.0))
    refuse_broken(scalar, contenders({"mine": optax.sgd})[0])


def test_a_loss_with_a_key_of_its_own_is_not_random():
    def loss(params, batch, key):
        return jnp.mean((params * jax.random.normal(key, batch.shape) - batch) ** 2)

    key, start, data = jax.random.key(7), lambda seed: jnp.ones(()), np.ones(8)
    free = Problem(loss, start, data)
    fixed = Problem(functools.partial(loss, key=key), start, data)
    assert free.takes_key
    assert not fixed.takes_key
    assert np.isclose(fixed.initial_loss, loss(1.0, data, key))
