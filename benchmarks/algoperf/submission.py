"""A submission to AlgoPerf by `odeopt.untuned`: nothing is tuned, on any workload.

It follows the API of AlgoPerf 0.6 (`prepare_for_eval`, `jax.jit` with shardings) for workloads in
JAX, under the self-tuning ruleset. A step is one gradient. The clock's horizon is the workload's
step hint, and the average of the path is what is evaluated. Dropout is the workload's own; there is
no label smoothing and no clipping.

Statistics of batch normalization are those of the training path, not of its average.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import optax
from algoperf import spec
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import odeopt

BATCH_SIZES = {
    "criteo1tb": 262_144,
    "fastmri": 32,
    "imagenet_resnet": 1024,
    "imagenet_vit": 1024,
    "librispeech_conformer": 256,
    "librispeech_deepspeech": 256,
    "mnist": 128,
    "ogbg": 512,
    "wmt": 128,
}
"""Examples of a batch over all devices: AlgoPerf's own baselines have the same, but for mnist."""


def get_batch_size(workload_name: str) -> int:
    """Examples of a batch; AlgoPerf asks again for the base workload where a variant is refused."""
    if workload_name not in BATCH_SIZES:
        raise ValueError(f"no batch size for {workload_name!r}: add it to BATCH_SIZES.")
    return BATCH_SIZES[workload_name]


def init_optimizer_state(
    workload: spec.Workload,
    model_params: spec.ParameterContainer,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    rng: spec.RandomState,
) -> spec.OptimizerState:
    """The pair that AlgoPerf's checkpoints expect: arrays, which it keeps, and a function.

    The arrays are the optimizer's state and the parameters at which training goes on. AlgoPerf
    itself goes on with what was evaluated, which is their average.
    """
    optimizer = odeopt.untuned(horizon=workload.step_hint)
    replicated = NamedSharding(Mesh(jax.devices(), ("batch",)), PartitionSpec())

    @functools.partial(jax.jit, out_shardings=replicated)
    def begin(params: Any) -> Any:
        return optimizer.init(params), params

    # The batch comes split over the devices; what is trained is whole on each.
    @functools.partial(jax.jit, out_shardings=replicated, donate_argnums=0)
    def step(training: Any, model_state: Any, batch: dict[str, Any], rng: Any) -> Any:
        state, params = training

        def loss(params: Any) -> Any:
            logits, new_model_state = workload.model_fn(
                params,
                batch,
                model_state,
                spec.ForwardPassMode.TRAIN,
                rng,
                update_batch_norm=True,
            )
            found = workload.loss_fn(
                label_batch=batch["targets"],
                logits_batch=logits,
                mask_batch=batch.get("weights"),
            )
            return found["summed"] / found["n_valid_examples"], new_model_state

        grads, model_state = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return (state, optax.apply_updates(params, updates)), model_state

    return begin(model_params), step


def update_params(
    workload: spec.Workload,
    current_param_container: spec.ParameterContainer,
    current_params_types: spec.ParameterTypeTree,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    batch: dict[str, spec.Tensor],
    loss_type: spec.LossType,
    optimizer_state: spec.OptimizerState,
    eval_results: list[tuple[int, float]],
    global_step: int,
    rng: spec.RandomState,
    train_state: dict[str, Any] | None = None,
) -> spec.UpdateReturn:
    """One step, from the parameters in the optimizer's state."""
    training, step = optimizer_state
    training, model_state = step(training, model_state, batch, rng)
    return (training, step), training[1], model_state


def prepare_for_eval(
    workload: spec.Workload,
    current_param_container: spec.ParameterContainer,
    current_params_types: spec.ParameterTypeTree,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    loss_type: spec.LossType,
    optimizer_state: spec.OptimizerState,
    eval_results: list[tuple[int, float]],
    global_step: int,
    rng: spec.RandomState,
) -> spec.UpdateReturn:
    """The evaluation parameters, in place of those at which training goes on."""
    state, params = optimizer_state[0]
    return optimizer_state, odeopt.step_params(state, params), model_state


def data_selection(
    workload: spec.Workload,
    input_queue: Iterator[dict[str, Any]],
    optimizer_state: spec.OptimizerState,
    current_param_container: spec.ParameterContainer,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    global_step: int,
    rng: spec.RandomState,
) -> dict[str, spec.Tensor]:
    """The next batch."""
    return next(input_queue)
