"""The state shards as the parameters do, and nothing is gathered; on eight host devices."""

import functools

import chex
import diffrax
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import odeopt
from benchmarks.programs import collectives
from odeopt import stepsize
from odeopt.sums import noise
from odeopt.zoo.registry import REGISTRY

from .table import EXPLICIT, KINDS, STAGED, TABLE, VARIED


def problem():
    x = jax.random.normal(jax.random.key(0), (16, 8))
    params = {
        "w1": jax.random.normal(jax.random.key(1), (8, 16)) / 3,
        "w2": jax.random.normal(jax.random.key(2), (16, 8)) / 4,
    }
    return params, x


def loss(params, batch):
    return jnp.mean((jnp.tanh(batch @ params["w1"]) @ params["w2"] - batch) ** 2)


def train(opt, params, batch, n):
    state = opt.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, batch)
        updates, state = opt.update(grads, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    shardings = []
    for _ in range(n):
        params, state = step(params, state)
        shardings.append(jax.tree.map(lambda x: x.sharding, (params, state)))
    return params, state, shardings


@pytest.mark.parametrize(
    ("name", "staged"), [(n, s) for n in KINDS for s in (False, True) if n in STAGED or not s]
)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_data_parallel_with_sharded_state(name, staged, axis_type):
    factory, stages, _ = TABLE[name]
    opt = factory(0.1, staged=True) if staged else factory(0.1)
    params, x = problem()
    calls = 2 * stages if staged else 2
    expected, _, _ = train(opt, params, x, calls)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, P("data", None)))
        replicated = jax.device_put(params, NamedSharding(mesh, P()))
        got, _, shardings = train(opt, replicated, sharded, calls)
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(expected), atol=1e-5)
    assert all(s == shardings[0] for s in shardings[1:])


MESHES = {
    # the parameters split along the axis of the data, and split over a second axis besides; last
    # in how many parts
    "fsdp": ((8,), ("data",), {"a": P("data", None), "b": P("data")}, 1),
    "tensor": ((4, 2), ("data", "model"), {"a": P("data", "model"), "b": P("model")}, 2),
}
STIFF = {"curvature": "hessian", "products": 5, "solve": "cg"}
MATRICES = ("muon", "soap", "log_time_soap", "untuned")
VARIANTS = {
    # flows of matrices multiply them, which is no update of their parts: docs/sharding.md
    **{name: {} for name in VARIED if name not in MATRICES},
    "relativistic": {"delta": 1.0},
    "rk4-rms": {"stage_transform": optax.scale_by_rms()},
    "rk4-rms-scan": {"stage_transform": optax.scale_by_rms(), "scan_stages": True},
    "rk4-corrected": {"correction": 5},  # up to 4 it has nothing to cancel
    "heun-corrected": {"correction": 4},
    "log_time_adam": {"learning_rate": None},
    "bosh3-embedded_error": {"learning_rate": stepsize.embedded_error(rtol=1e-2, atol=1e-3)},
    "euler-drift_adjusted": {"learning_rate": stepsize.drift_adjusted()},
    "euler-corridor": {"learning_rate": stepsize.corridor()},
    "euler-sharpness": {"learning_rate": stepsize.sharpness(first=6)},
    "heun-gain_ratio": {"learning_rate": stepsize.gain_ratio()},
    "adam-angle": {"learning_rate": stepsize.angle()},
    "rkc-auto": {"stages": None, "max_stages": 4},
    "linearly_implicit_euler": {**STIFF, "precondition": True},
    # to the end: inside `shard_map` other directions are drawn
    "linearly_implicit_euler-rank": {**STIFF, "rank": 3, "products": 20, "tolerance": 1e-6},
    "exponential_euler": {"curvature": "hessian", "products": 5},
    "implicit_euler": {**STIFF, "iterations": 2},
}
# All-reduces in a compiled update where all leaves are split alike. Those of one norm are one,
# however many leaves there are; a loop over products has those of its body. Of embedded_error one
# is diffrax's question whether anything is NaN.
REDUCTIONS = {
    **dict.fromkeys(("relativistic", "euler-corrected"), 1),
    **dict.fromkeys(("heavy_ball-corrected", "adam-corrected"), 1),
    # a rule that can reject a step asks besides whether all of it is finite
    **dict.fromkeys(("euler-drift_adjusted", "euler-corridor", "heun-gain_ratio"), 2),
    **dict.fromkeys(("adam-angle", "log_time_adam"), 2),
    "bosh3-embedded_error": 3,
    "heun-corrected": 2,
    "rk4-corrected": 4,
    "rkc-auto": 6,
    "linearly_implicit_euler": 6,
    # two matrices of inner products, and two products with the sketch wherever it is used
    "linearly_implicit_euler-rank": 10,
    "exponential_euler": 8,
    "implicit_euler": 9,  # whether all of the step is finite is one
    "euler-sharpness": 12,
}
START = {"a": jnp.linspace(-1.0, 1.0, 64).reshape(16, 4), "b": jnp.linspace(-2.0, 1.0, 8)}


def build(row):
    name = row.split("-")[0] if row not in TABLE else row
    factory = TABLE[name][0] if name in TABLE else getattr(odeopt, name)
    kwargs = {"learning_rate": 0.1} | VARIANTS[row]
    if name == "rkc":
        factory = odeopt.rkc
        kwargs = {"stages": 3} | kwargs
    return factory(**kwargs)


def stepped(opt, total=lambda parts: sum(parts.values())):
    """A step whose gradient is elementwise: a collective is the update's, or a loss's that it asks.

    The loss is a sum over all parameters, which `total` finishes.
    """

    def loss(params):
        return total({k: jnp.sum(jnp.cosh(x)) for k, x in params.items()})

    def step(params, state):
        grads = jax.tree.map(jnp.sinh, params)
        updates, state = opt.update(grads, state, params, value_fn=loss, value=loss(params))
        return optax.apply_updates(params, updates), state

    return step


@functools.cache
def unsplit(row):
    """Three steps on one device."""
    opt = build(row)
    step, params = jax.jit(stepped(opt)), START
    state = opt.init(params)
    for _ in range(3):
        params, state = step(params, state)
    return jax.device_get(params)


def inside_shard_map(opt, mesh, specs, state, **kwargs):
    axes = mesh.axis_names

    def total(parts):
        return sum(jax.lax.psum(x, tuple(filter(None, specs[k]))) for k, x in parts.items())

    # the state is split as the parameters
    by_shape = {START[k].shape: spec for k, spec in specs.items()}
    split = jax.tree.map(lambda x: by_shape.get(x.shape, P()), state)
    step = stepped(odeopt.across(axes, opt), total)
    both = specs, split
    return jax.shard_map(step, mesh=mesh, in_specs=both, out_specs=both, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("row", VARIANTS)
@pytest.mark.parametrize(
    ("mode", "layout"), [("explicit", "fsdp"), ("auto", "tensor"), ("shard_map", "tensor")]
)
def test_a_split_update_gathers_nothing_and_is_that_of_one_device(row, mode, layout):
    shape, axes, specs, parts = MESHES[layout]
    kind = AxisType.Explicit if mode == "explicit" else AxisType.Auto
    mesh = jax.make_mesh(shape, axes, axis_types=(kind,) * len(axes))
    opt = build(row)
    with jax.set_mesh(mesh):
        params = {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in START.items()}
        state = opt.init(params)
        step = inside_shard_map(opt, mesh, specs, state) if mode == "shard_map" else stepped(opt)
        compiled = jax.jit(step).lower(params, state).compile()
        found = collectives(compiled)
        assert set(found) <= {"all-reduce"}
        assert found.get("all-reduce", 0) <= parts * REDUCTIONS.get(row, 0)
        likes = {x.shape: x.sharding for x in params.values()}
        for _ in range(3):
            params, state = compiled(params, state)  # which takes no other shardings
            for leaf in jax.tree.leaves((params, state)):
                if leaf.shape in likes:
                    assert leaf.sharding.is_equivalent_to(likes[leaf.shape], leaf.ndim)
        chex.assert_trees_all_close(jax.device_get(params), unsplit(row), atol=2e-6)


@pytest.fixture
def eight():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    with jax.set_mesh(mesh):
        yield mesh


def test_without_across_a_norm_inside_shard_map_is_that_of_the_part(eight):
    long = jnp.full(16, 1e6)

    found = []
    for wrap in (lambda opt: opt, lambda opt: odeopt.across("model", opt)):
        opt = wrap(odeopt.relativistic(0.1, momentum=0.9, delta=1.0))
        step = lambda p, g, opt=opt: opt.update(g, opt.init(p), p)[0]
        split = jax.shard_map(step, in_specs=P("model"), out_specs=P("model"))
        found.append(float(jnp.linalg.norm(jax.device_get(jax.jit(split)(jnp.ones(16), long)))))
    assert found == pytest.approx([8**0.5, 1.0], rel=1e-5)  # 8 parts, each of the whole length


@pytest.mark.parametrize(
    ("specs", "options", "axes"),
    [(P(), {}, "model"), (P("model"), {"check_vma": False}, "model"), (P("model"), {}, ())],
    ids=["replicated", "unchecked", "no axes"],
)
def test_across_refuses_to_sum_over_what_it_cannot_see(eight, specs, options, axes):
    opt = odeopt.across(axes, odeopt.relativistic(0.1, momentum=0.9, delta=1.0))
    step = lambda p: opt.update(p, opt.init(p), p)[0]
    split = jax.shard_map(step, in_specs=specs, out_specs=specs, **options)
    with pytest.raises(ValueError, match=r"across.*no parameter varies.*check_vma"):
        jax.jit(split)(jnp.ones(16))


def in_parts(opt, params):
    """A step of `opt` in `across`, every leaf split along its first axis over eight devices."""
    whole = lambda p: sum(jax.lax.psum(jnp.sum(jnp.cosh(x)), "model") for x in p.values())
    inside = odeopt.across("model", opt)
    step = lambda p: inside.update(jax.grad(whole)(p), inside.init(p), p, value_fn=whole)[0]
    return jax.jit(jax.shard_map(step, in_specs=P("model"), out_specs=P("model")))(params)


@pytest.mark.parametrize("name", [*MATRICES, "game_implicit_midpoint", "from_diffrax"])
def test_what_needs_the_whole_is_refused_where_it_is_split(eight, name):
    kvaerno = lambda h: odeopt.from_diffrax(diffrax.Kvaerno3(), h)
    opt = kvaerno(0.1) if name == "from_diffrax" else REGISTRY[name].build(0.1)
    with pytest.raises(ValueError, match=r"across: .*(needs the whole|the part of one device)"):
        in_parts(opt, {"a": jnp.linspace(-1.0, 1.0, 64).reshape(16, 4)})


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRICES)
def test_whole_matrices_may_be_split_from_one_another(eight, name):
    params = {"a": jnp.linspace(-1.0, 1.0, 96).reshape(8, 4, 3)}
    about = "muon_weight_" if name in ("muon", "untuned") else "weight_"
    axes = {f"{about}dimension_numbers": optax.contrib.MuonDimensionNumbers((1,), (2,))}
    opt = REGISTRY[name].function(learning_rate=0.1, **axes)
    loss = lambda p: jnp.sum(jnp.cosh(p["a"]))
    expected, _ = opt.update(jax.grad(loss)(params), opt.init(params), params, value_fn=loss)
    # Five Newton-Schulz iterations multiply what rounding leaves in a vanishing direction by 3.44.
    atol = 0.1 * 3.4445**5 * float(jnp.finfo(jnp.float32).eps)
    chex.assert_trees_all_close(jax.device_get(in_parts(opt, params)), expected, atol=atol)


def test_a_step_that_is_not_finite_on_one_device_is_rejected_on_all(eight):
    opt = odeopt.across("model", odeopt.adam(stepsize.angle(first=0.5)))

    def step(p, g):
        state = opt.init(p)
        updates, state = opt.update(g, state, p)
        return updates, state.rejected

    split = jax.shard_map(step, in_specs=P("model"), out_specs=(P("model"), P()))
    updates, rejected = jax.jit(split)(jnp.ones(16), jnp.ones(16).at[3].set(jnp.nan))
    assert rejected == 1
    assert jnp.all(updates == 0)


def test_the_parts_of_a_random_direction_do_not_repeat_each_other(eight):
    drawn = optax.GradientTransformation(noise, lambda g, s, p=None: (g, s))
    for opt, different in [(drawn, 2), (odeopt.across("model", drawn), 16)]:
        split = jax.shard_map(opt.init, in_specs=P("model"), out_specs=P("model"))
        assert len(set(jax.jit(split)(jnp.ones(16)).tolist())) == different


@pytest.mark.slow
def test_an_exact_solve_is_refused_where_samples_are_split_explicitly_and_auto_avoids_it():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    x = jax.random.normal(jax.random.key(0), (16, 3))
    loss = odeopt.composite(lambda out, y: jnp.mean((out - y) ** 2), lambda p, x: jnp.tanh(x @ p))

    def step(solve, x):
        opt = odeopt.linearly_implicit_euler(1.0, solve=solve)
        params, data = jnp.ones(3), {"x": x, "y": jnp.sum(x, 1)}
        grads = jax.grad(lambda p: loss(p, **data))(params)
        return opt.update(grads, opt.init(params), params, value_fn=loss, **data)[0]

    exact, whole = jax.jit(step, static_argnums=0)("exact", x), x
    with jax.set_mesh(mesh):
        x = jax.device_put(whole, NamedSharding(mesh, P("data", None)))
        with pytest.raises(ValueError, match=r'over devices.*solve="cg"'):
            jax.jit(step, static_argnums=0)("exact", x)
        found = jax.device_get(jax.jit(step, static_argnums=0)("auto", x))
    chex.assert_trees_all_close(found, jax.device_get(exact), rtol=2e-3)  # the tolerance of cg


@pytest.mark.slow
def test_a_large_leaf_split_explicitly_along_its_last_axis_trains_as_a_whole_one():
    """log_time_adam looks at every 16th entry of it, which JAX does not slice there."""
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Explicit,))
    opt = odeopt.log_time_adam()
    params = {"a": jax.random.normal(jax.random.key(0), (32, 128)), "b": jnp.ones(8)}
    expected = params
    step, state = jax.jit(stepped(opt)), opt.init(params)
    for _ in range(3):
        expected, state = step(expected, state)
    with jax.set_mesh(mesh):
        specs = {"a": P(None, "model"), "b": P("model")}
        params = {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in params.items()}
        state = opt.init(params)
        assert set(collectives(step.lower(params, state).compile())) == {"all-reduce"}
        for _ in range(3):
            params, state = step(params, state)
    chex.assert_trees_all_close(jax.device_get(params), jax.device_get(expected), atol=2e-6)


def test_staged_state_is_split_as_the_parameters():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    params = jax.device_put(jnp.ones((16, 4)), NamedSharding(mesh, P("model", None)))
    state = EXPLICIT["rk4"][0](0.1, staged=True).init(params)
    copies = [x for x in jax.tree.leaves(state) if x.shape == params.shape]
    assert len(copies) == 4  # the start of the step and three slopes
    assert all(x.sharding == params.sharding for x in copies)
