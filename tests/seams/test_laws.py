"""Every law on every configuration and fault."""

import collections
import itertools
import pickle

import jax
import pytest
from flax import serialization

from . import laws
from .cases import FAULTS, IMPOSSIBLE, Configuration, cases_of, configurations, pairs, refusal
from .runs import Run

pytestmark = pytest.mark.whole

GROUP = 10  # configurations of one test
FAST, FULL = 3, 43  # tests of the fast tier, and of all
ALLOWED = 2  # configurations of a test that may be refused

STORES = {
    "pickle": lambda state, empty: pickle.loads(pickle.dumps(state)),
    "flax": lambda state, empty: serialization.from_bytes(empty, serialization.to_bytes(state)),
}


def laws_of(configuration: Configuration):
    """The cases of a configuration, and what breaks a law."""
    with jax.enable_x64(configuration.x64):
        try:
            run = Run(configuration)
        except (ValueError, TypeError) as error:
            return [], [], refusal(error)
        cases, broken = [], []

        def case(name, *checks):
            cases.append(name)
            for law, *arguments in checks:
                try:
                    law(*arguments)
                except AssertionError as error:
                    broken.append(f"{configuration} | {name} | {law.__name__}: {error}")

        good = FAULTS[0]
        undisturbed = run(good)
        for fault in cases_of(configuration):
            history = undisturbed if fault is good else run(fault)
            checks = [(laws.keeps_types, run, history), (laws.summary_is_true, run, history)]
            if fault.kind == "none":
                checks += [(laws.stays_finite, history), (laws.descends, run, history)]
            elif fault.kind == "flat":
                checks.append((laws.zero_gradient_moves_nothing, run, history))
            elif fault.kind == "zero":
                checks.append((laws.zero_size_is_the_identity, run, history, fault))
            elif laws.can_reject(configuration):
                law = laws.one_bad_batch_costs_one_step
                checks.append((law, run, history, undisturbed, fault))
            else:
                checks.append((laws.bad_batches_are_not_silent, run, history, undisturbed))
            case(fault.name, *checks)
        for name, store in STORES.items():
            case(f"restored by {name}", (laws.continues_after, run, undisturbed, good, store))
        return cases, broken, None


@pytest.mark.parametrize("group", range(FAST))
def test_a_sample(group):
    check_group(group)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(FAST, FULL))
def test_the_rest(group):
    check_group(group)


def check_group(group):
    broken, refused, number = [], [], 0
    for configuration in configurations(GROUP * FULL)[group::FULL]:
        cases, found, reason = laws_of(configuration)
        broken += found
        number += len(cases)
        refused += [f"{configuration}: {reason}"] * (reason is not None)
    print(f"{number} cases; refused: {refused}")
    assert not broken, "\n".join(broken)
    assert len(refused) <= ALLOWED, refused


def test_there_are_10_000_cases():
    """Without those that the groups may refuse; every two choices occur together."""
    refused, built = pairs()
    everything = configurations(GROUP * FULL)
    numbers = sorted(len(cases_of(c)) + len(STORES) for c in everything)
    cases = sum(numbers[: len(numbers) - ALLOWED * FULL])
    for (reason,), number in collections.Counter((r,) for r in refused.values()).items():
        print(f"refused when built, {number} pairs of optimizer and rule: {reason}")
    print(f"{len(everything)} configurations of {len(built)} pairs, at least {cases} cases")
    assert cases >= 10_000
    assert {(c.optimizer, c.rule) for c in everything} == set(built)
    for i, j in itertools.combinations(range(5), 2):
        if (i, j) != (0, 1):
            values = [{c[k] for c in everything} for k in (i, j)]
            possible = {pair for pair in itertools.product(*values) if set(pair) != IMPOSSIBLE}
            assert {(c[i], c[j]) for c in everything} == possible


@pytest.mark.parametrize("name", ["adam", "rmsprop", "log_time_adam", "adam-corrected"])
def test_sharpness_is_refused_where_gradients_are_normalized(name):
    with pytest.raises(ValueError, match="largest stable step is not a multiple"):
        Run(Configuration(name, "sharpness", "f32", "plain", "dict"))
