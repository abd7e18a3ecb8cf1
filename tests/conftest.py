import jax
import pytest

# Sharding is tested on eight host devices; this must be set before the backend starts.
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
