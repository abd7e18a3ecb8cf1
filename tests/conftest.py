import importlib.util
import os
import tempfile
import zlib
from collections import defaultdict
from pathlib import Path

import chex
import hypothesis
import jax
import pytest

# Sharding is tested on eight host devices; this must be set before the backend starts.
jax.config.update("jax_num_cpu_devices", 8)

# Many tests compile the same programs: each is compiled once for all workers, and for all steps of
# `.ci/run`, which names the folder. Commands that tests run, and kill, have no part in it.
if "ODEOPT_TEST_CACHE" not in os.environ:
    _folder = tempfile.TemporaryDirectory(prefix="odeopt-tests-")
    os.environ["ODEOPT_TEST_CACHE"] = _folder.name
jax.config.update("jax_compilation_cache_dir", os.environ["ODEOPT_TEST_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# The first example of a test compiles, which no deadline should count.
hypothesis.settings.register_profile("odeopt", deadline=None)
hypothesis.settings.load_profile("odeopt")

FURTHER = 2  # cases of a test

# Of extras of their own, which `.ci/run` installs: they are large.
collect_ignore = [
    f"test_{extra}.py" for extra in ("benchopt", "sif2jax") if not importlib.util.find_spec(extra)
]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test's cases the fast tier runs one, always the same; `.ci/run` two more, or all.

    All of a test marked `whole`. The cases that are left are `exhaustive`.
    """
    products = defaultdict(list)
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if hasattr(item, "callspec") and not marks & {"aot", "cheap"}:
            products[item.path, item.parent.name, item.originalname].append(item)
    for cases in products.values():
        cases.sort(key=lambda item: zlib.crc32(item.name.encode()))
        for place, item in enumerate(cases[1:]):
            runs = place < FURTHER or item.get_closest_marker("whole")
            item.add_marker(pytest.mark.slow if runs else pytest.mark.exhaustive)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def programs_do_not_pile_up():
    """jaxlib has aborted in a process that held thousands of compiled programs."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def traces_are_counted_anew():
    """chex tells functions apart by their source, which several tests may share."""
    chex.clear_trace_counter()
