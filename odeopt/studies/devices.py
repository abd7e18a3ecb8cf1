"""The devices of this process that a study may use."""

import contextlib

import jax


def local_devices(count: int) -> list[jax.Device]:
    """The first `count` devices of this process.

    A CPU is one device unless JAX is told otherwise before its first computation, which this does
    where that is still possible.

    Raises:
        ValueError: There are fewer, or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"--devices must be at least 1, not {count}.")
    if jax.config.values["jax_num_cpu_devices"] < count:
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", count)
    found = jax.local_devices()
    if len(found) < count:
        raise ValueError(
            f"--devices is {count}, but this process has {len(found)} of the kind "
            f"{found[0].platform}. (More devices of a CPU must be asked for before JAX first "
            f'computes: `jax.config.update("jax_num_cpu_devices", {count})`.)'
        )
    return found[:count]
