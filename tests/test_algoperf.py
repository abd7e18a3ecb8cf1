"""The submission to AlgoPerf trains a workload as AlgoPerf's runner calls it."""

import enum
import importlib.util
import itertools
import sys
import types
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import odeopt

STEPS = 64


class ForwardPassMode(enum.Enum):
    TRAIN = 0
    EVAL = 1


class Workload:
    """Classes of points by a linear model with dropout and a running mean, as AlgoPerf has them."""

    step_hint = STEPS
    loss_type = None
    model_params_types = None

    def __init__(self):
        random = np.random.default_rng(0)
        inputs = random.standard_normal((256, 4)).astype(np.float32)
        targets = (inputs @ random.standard_normal((4, 3))).argmax(axis=1)
        # The last rows of every batch are padding.
        weights = (np.arange(256) % 64 < 48).astype(np.float32)
        split = NamedSharding(Mesh(jax.devices(), ("batch",)), PartitionSpec("batch"))
        self.batches = [
            jax.device_put({"inputs": x, "targets": t, "weights": w}, split)
            for x, t, w in zip(*(np.split(a, 4) for a in (inputs, targets, weights)), strict=True)
        ]

    def init_model_fn(self, rng):
        params = {"kernel": 0.1 * jax.random.normal(rng, (4, 3)), "bias": jnp.zeros(3)}
        return params, {"mean": jnp.zeros(4)}

    def model_fn(
        self,
        params,
        augmented_and_preprocessed_input_batch,
        model_state,
        mode,
        rng,
        update_batch_norm,
        dropout_rate=0.1,
    ):
        inputs = augmented_and_preprocessed_input_batch["inputs"]
        if mode is ForwardPassMode.TRAIN:
            kept = jax.random.bernoulli(rng, 1 - dropout_rate, inputs.shape)
            inputs = jnp.where(kept, inputs / (1 - dropout_rate), 0.0)
        if update_batch_norm:
            mean = 0.9 * model_state["mean"] + 0.1 * inputs.mean(axis=0)
            model_state = {"mean": mean}
        return (inputs - model_state["mean"]) @ params["kernel"] + params["bias"], model_state

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        each = optax.softmax_cross_entropy_with_integer_labels(logits_batch, label_batch)
        each = each * mask_batch
        return {"summed": each.sum(), "n_valid_examples": mask_batch.sum(), "per_example": each}

    def loss(self, params, model_state):
        found = [
            self.loss_fn(b["targets"], logits, b["weights"])
            for b in self.batches
            for logits, _ in [
                self.model_fn(params, b, model_state, ForwardPassMode.EVAL, None, False)
            ]
        ]
        total, valid = (sum(f[name] for f in found) for name in ("summed", "n_valid_examples"))
        return float(total / valid)


@pytest.fixture
def submission(monkeypatch):
    """The file, imported beside a stand-in for AlgoPerf, of which it uses one name."""
    package = types.ModuleType("algoperf")
    package.spec = types.SimpleNamespace(ForwardPassMode=ForwardPassMode)
    monkeypatch.setitem(sys.modules, "algoperf", package)
    file = Path(__file__).parent.parent / "benchmarks" / "algoperf" / "submission.py"
    source = importlib.util.spec_from_file_location("algoperf_submission", file)
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    return module


class Run:
    """What AlgoPerf's runner holds, and how it calls a submission."""

    def __init__(self, submission):
        self.submission, self.workload = submission, Workload()
        self.params, self.model_state = self.workload.init_model_fn(jax.random.key(0))
        self.optimizer_state = submission.init_optimizer_state(
            self.workload, self.params, self.model_state, None, jax.random.key(1)
        )
        self.queue, self.step = itertools.cycle(self.workload.batches), 0

    def advance(self, steps):
        for _ in range(steps):
            batch = self.submission.data_selection(
                self.workload,
                self.queue,
                self.optimizer_state,
                self.params,
                self.model_state,
                None,
                self.step,
                None,
            )
            self.called(self.submission.update_params, batch=batch, train_state={})
            self.step += 1

    def prepare(self):
        self.called(self.submission.prepare_for_eval)

    def called(self, function, **more):
        self.optimizer_state, self.params, self.model_state = function(
            workload=self.workload,
            current_param_container=self.params,
            current_params_types=self.workload.model_params_types,
            model_state=self.model_state,
            hyperparameters=None,
            loss_type=self.workload.loss_type,
            optimizer_state=self.optimizer_state,
            eval_results=[],
            global_step=self.step,
            rng=jax.random.fold_in(jax.random.key(2), self.step),
            **more,
        )

    def loss(self):
        return self.workload.loss(self.params, self.model_state)


@pytest.mark.slow
def test_it_trains_and_reads_out_the_average(submission):
    run = Run(submission)
    before = run.loss()
    run.advance(STEPS)
    state, params = run.optimizer_state[0]
    assert int(state.gradients) == int(state.steps) == STEPS
    assert run.params is params
    run.prepare()
    average = odeopt.step_params(state, params)
    for name in average:
        np.testing.assert_array_equal(run.params[name], average[name])
        assert not np.array_equal(average[name], params[name])
    assert run.loss() < 0.3 * before


@pytest.mark.slow
def test_a_step_is_that_of_untuned_on_the_mean_loss_of_the_valid_examples(submission):
    run = Run(submission)
    workload, params, model_state = run.workload, *Workload().init_model_fn(jax.random.key(0))
    opt = odeopt.untuned(horizon=STEPS)

    def loss(params, batch, rng):
        logits, _ = workload.model_fn(params, batch, model_state, ForwardPassMode.TRAIN, rng, True)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        return each.mean(where=batch["weights"] > 0)

    @jax.jit
    def update(params, batch, rng):
        return opt.update(jax.grad(loss)(params, batch, rng), opt.init(params), params)[0]

    updates = update(params, workload.batches[0], jax.random.fold_in(jax.random.key(2), 0))
    run.advance(1)
    for name, update in updates.items():
        np.testing.assert_allclose(run.params[name], params[name] + update, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_evaluations_do_not_change_the_training(submission):
    often, never = Run(submission), Run(submission)
    for _ in range(4):
        often.advance(2)
        often.prepare()
    never.advance(8)
    never.prepare()
    for name in never.params:
        np.testing.assert_array_equal(often.params[name], never.params[name])


def test_what_is_trained_is_whole_on_every_device(submission):
    run = Run(submission)
    run.advance(2)
    run.prepare()
    for leaf in jax.tree.leaves((run.params, run.model_state, run.optimizer_state[0])):
        assert leaf.sharding.is_fully_replicated
        assert leaf.sharding.device_set == set(jax.devices())


@pytest.mark.slow
def test_a_checkpoint_as_algoperf_makes_it_resumes(submission):
    run, resumed = Run(submission), Run(submission)
    run.advance(4)
    run.prepare()
    kept = flax.serialization.to_state_dict(
        (run.params, run.optimizer_state[0], run.model_state)
    )  # after an evaluation, without the function
    kept = jax.tree.map(np.asarray, kept)
    whole = resumed.params, resumed.optimizer_state[0], resumed.model_state
    resumed.params, arrays, resumed.model_state = flax.serialization.from_state_dict(whole, kept)
    resumed.optimizer_state, resumed.step = (arrays, resumed.optimizer_state[1]), 4
    for one in (run, resumed):
        one.advance(4)  # the queue has four batches
    for name in run.params:
        np.testing.assert_array_equal(run.params[name], resumed.params[name])


def test_batch_sizes_are_those_of_base_workloads(submission):
    assert submission.get_batch_size("ogbg") == 512
    with pytest.raises(ValueError, match="add it to BATCH_SIZES"):
        submission.get_batch_size("ogbg_gelu")
