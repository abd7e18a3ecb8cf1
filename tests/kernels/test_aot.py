"""Every kernel compiled for TPU v5e and H100 without either: `pytest -m aot tests/kernels`.

Not part of the usual run. Needs wheels that the package does not (`docs/kernels.md`).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from .cases import LEAF, TILES, UPDATES

pytestmark = pytest.mark.aot

H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  memory_bandwidth: 3350000000000
  device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
TOPOLOGIES = {
    "tpu": {"topology_name": "v5e:2x2"},
    "cuda": {"topology_name": "h100", "topology": "1x4x1", "target_config": H100},
}
CALL = {"tpu": "tpu_custom_call", "cuda": "mosaic_gpu"}


@pytest.fixture(scope="module", params=TOPOLOGIES)
def mesh(request):
    platform = request.param
    devices = topologies.get_topology_desc(platform=platform, **TOPOLOGIES[platform]).devices
    return platform, Mesh(np.array(devices[:4]), ("a",))


def program(name, shape, dtype, mesh, spec):
    platform, mesh = mesh
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        k = [jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))] * 4
        traced = jax.jit(lambda k: UPDATES[name](k, "pallas")).trace(k)
        return traced.lower(lowering_platforms=(platform,)).compile().as_text()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", UPDATES)
def test_every_kernel_compiles(name, dtype, mesh):
    single = mesh[0], Mesh(mesh[1].devices[:1], ("a",))
    for shape in (LEAF, TILES, (1000, 512), ()):
        text = program(name, shape, dtype, single, P())
        fits = len(shape) == 2 and dtype != jnp.float16 if mesh[0] == "tpu" else shape != ()
        fits &= name != "rounding" or dtype == jnp.bfloat16
        assert (CALL[mesh[0]] in text) == fits


@pytest.mark.parametrize("name", ["combination", "adam", "rounding"])
def test_every_kernel_compiles_on_parts_of_a_split_leaf(name, mesh):
    platform, devices = mesh[0], mesh[1].devices
    # JAX tells the TPU compiler how to cut (automatic axes) only where there is a TPU
    for axis_type in (AxisType.Explicit, AxisType.Auto)[: 1 if platform == "tpu" else 2]:
        for spec in (P("a"), P(None, "a")):
            cut = platform, Mesh(devices, ("a",), axis_types=(axis_type,))
            text = program(name, (64, 1024), jnp.bfloat16, cut, spec)
            assert CALL[platform] in text
            assert "all-gather" not in text
            assert "all-reduce" not in text
