"""A configuration in a training loop with faults, and what its run has left behind."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from odeopt.state import states

from .cases import CALLS, PARTIAL, Configuration, Fault, loss, params_of


class History(NamedTuple):
    """Parameters, updates and states: entry 0 is before the first call, entry n after the n-th."""

    params: Any
    updates: Any
    state: Any

    def ode(self) -> Any:
        """The state of the optimizer under test, whatever it is wrapped in."""
        found = dict(states(self.state))
        return (
            next(iter(found.values()))
            if len(found) == 1
            else next(node for path, node in found.items() if "own" in path)
        )

    def own(self, tree: Any, configuration: Configuration) -> list[np.ndarray]:
        """The leaves that are the optimizer's."""
        leaves = [np.asarray(x) for x in jax.tree.leaves(tree)]
        return leaves[:1] if configuration.wrapper in PARTIAL else leaves


class Run:
    """A configuration, compiled once for all faults."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.params = params_of(configuration.tree, configuration.dtype)
        self.size = configuration.size
        ones = jnp.full(CALLS, self.size, float)
        self.state = configuration.build(ones).init(self.params)
        self._compiled = jax.jit(self._train).lower(*self._arguments(None, None, None)).compile()

    def _arguments(self, fault: Fault | None, params: Any, state: Any) -> tuple:
        if fault is None:
            factors = [jnp.ones(CALLS, jnp.float32)] * 4
            sizes, scale = jnp.ones(CALLS, float), jnp.asarray(1.0, jnp.float32)
        else:
            factors = [jnp.asarray(f) for f in (fault.gradient, fault.value, fault.inside)]
            sizes, scale = self.size * jnp.asarray(fault.sizes, float), fault.scale
            scale = jnp.asarray(scale, jnp.float32)
        start = self.params if params is None else params
        return start, self.state if state is None else state, tuple(factors[:3]), sizes, scale

    def _train(self, params: Any, state: Any, factors: tuple, sizes: Any, scale: Any) -> Any:
        opt = self.configuration.build(sizes)

        def plain(p: Any, factor: Any = 1.0) -> Any:
            with jax.numpy_dtype_promotion("standard"):
                return factor * (scale * loss(p))

        def call(carry: Any, factors: tuple) -> Any:
            params, state = carry
            gradient, value, inside = factors
            now, grads = jax.value_and_grad(plain)(params)
            leaves, structure = jax.tree.flatten(jax.tree.map(jnp.conj, grads))
            flat = jnp.ravel(leaves[0])
            flat = flat.at[0].multiply(gradient.astype(flat.real.dtype))
            grads = jax.tree.unflatten(structure, [flat.reshape(leaves[0].shape), *leaves[1:]])
            within = lambda p: plain(p, inside)
            args = {"value_fn": within, "value": value * now}
            if self.configuration.wrapper in PARTIAL:
                args["full_params"] = params
            if self.configuration.optimizer == "alternating":
                args["grad_fn"] = lambda p, stage: jax.tree.map(jnp.conj, jax.grad(within)(p))
            promotion = jax.numpy_dtype_promotion(self.configuration.promotion)
            with promotion, jax.numpy_rank_promotion("raise"):
                updates, state = opt.update(grads, state, params, **args)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, updates, state)

        return jax.lax.scan(call, (params, state), factors)[1]

    def __call__(self, fault: Fault, params: Any = None, state: Any = None) -> History:
        """What happens, with everything before the first call in front."""
        arguments = self._arguments(fault, params, state)
        start, first = arguments[:2]
        zeros = jax.tree.map(np.zeros_like, start)
        after = self._compiled(*arguments)
        return History(
            *jax.tree.map(
                lambda a, b: np.concatenate([np.asarray(a)[None], np.asarray(b)]),
                (start, zeros, first),
                tuple(after),
            )
        )
