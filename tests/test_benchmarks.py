"""What benchmarks count is exact, so it is asserted here; what they time is not."""

import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks import __main__ as command
from benchmarks import kernels, models, programs, reference, steps, timing
from benchmarks.calls import calls

from .solvers.cases import STAGES


@pytest.mark.parametrize("name", [name for name, stages in STAGES.items() if stages > 1])
def test_a_compiled_step_has_the_products_of_its_other_stages(name):
    assert steps.extra_gradients(name) == STAGES[name] - 1


def test_four_gradients_are_four_gradients():
    batches = models.batch_of(models.DIGITS, 16, 2)
    batch = jax.tree.map(lambda array: array[0], batches)
    params = models.mlp(models.DIGITS)
    four = models.repeated(models.four_gradients)
    compiled = programs.compile_program(four, (params,) * 4, (params,) * 4, batches)
    one = programs.compile_program(jax.grad(models.loss), params, batch)
    assert programs.dots(compiled) == 4 * programs.dots(one)


@pytest.mark.parametrize("leaves", [1, 60])
@pytest.mark.parametrize("name", steps.UPDATES)
def test_updates_move_the_bytes_of_optax(name, leaves):
    ours, theirs = steps.moved_bytes(name, leaves)
    # counters, read, advanced and written, are all that it may add
    assert ours <= theirs + 256


def test_a_traced_update_makes_few_python_calls():
    for row in calls(0):
        assert row.value <= float(row.aim), row


def test_ratio_takes_the_median_of_the_rounds():
    row = timing.ratio("group", "name", [(1.0, 2.0), (3.0, 2.0), (2.0, 2.0)])
    assert (row.value, row.rounds, row.seconds) == (1.0, 3, 2.0)
    assert row.low <= row.value <= row.high


def test_command_prints_and_writes_the_same(tmp_path, capsys):
    command.main(["--only", "dots", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    printed = capsys.readouterr().out
    assert [row["value"] for row in rows] == [1, 3, 5]
    assert all(row["name"] in printed for row in rows)


def test_kernels_are_timed_on_a_gpu_only(capsys):
    command.main(["--gpu"])
    assert capsys.readouterr().out == "no GPU found\n"


@pytest.mark.slow
def test_every_kernel_has_a_timing():
    rows = kernels.timings(1, "interpret_tpu", dtypes=[jnp.bfloat16], leaves=[1], rows=2)
    assert [row.name.split(",")[0] for row in rows] == list(kernels.SIDES)


def test_worse_is_what_is_apart_from_the_reference_run(tmp_path):
    known = {
        "time": timing.Row("g", "time", 1.0, 0.9, 1.1, 21, 1e-3),
        "count": timing.exact("g", "count", 3.0),
        "gain": timing.Row("g", "gain", 8.0, 7.0, 9.0, 3, 1.0, "> 5"),
    }
    judged = lambda row: reference.verdict(row, known)
    assert judged(timing.Row("g", "time", 1.3, 1.25, 1.4, 21, 1e-3)) == "worse"
    assert judged(timing.Row("g", "time", 1.15, 1.05, 1.3, 21, 1e-3)) == ""
    assert judged(timing.Row("g", "time", 0.7, 0.6, 0.8, 21, 1e-3)) == "better"
    assert judged(timing.exact("g", "count", 4.0)) == "worse"
    assert judged(timing.exact("g", "count", 3.0)) == ""
    assert judged(timing.Row("g", "gain", 4.0, 3.0, 5.0, 3, 1.0, "> 5")) == "worse"
    assert judged(timing.exact("g", "other", 1.0)) == "new"
    file = tmp_path / "rows.json"
    reference.write(file, {}, list(known.values()))
    reference.write(file, {}, [timing.exact("h", "more", 1.0)])
    assert list(reference.load(file)) == [*known, "more"]
