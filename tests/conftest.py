import hypothesis
import jax
import pytest

# Sharding is tested on eight host devices; this must be set before the backend starts.
jax.config.update("jax_num_cpu_devices", 8)

# The first example of a test compiles, which no deadline should count.
hypothesis.settings.register_profile("odeopt", deadline=None)
hypothesis.settings.load_profile("odeopt")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
