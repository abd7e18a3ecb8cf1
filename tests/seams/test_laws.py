"""Every law on every configuration and fault."""

import collections
import pickle

import jax
import pytest
from flax import serialization

from . import laws
from .cases import FAULTS, REFUSALS, Configuration, configurations, pairs, refusal
from .laws import Run

GROUP = 10  # configurations of one test
FAST, FULL = 4, 50  # tests of the fast tier, and of all

STORES = {
    "pickle": lambda state, empty: pickle.loads(pickle.dumps(state)),
    "flax": lambda state, empty: serialization.from_bytes(empty, serialization.to_bytes(state)),
}


def tested(configuration: Configuration):
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
        for fault in FAULTS:
            if fault.kind == "zero" and configuration.rule != "schedule":
                continue
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
                checks.append((laws.bad_batches_are_not_silent, run, history))
            case(fault.name, *checks)
        for name, store in STORES.items():
            case(f"restored by {name}", (laws.continues_after, run, undisturbed, good, store))
        return cases, broken, None


@pytest.mark.parametrize(
    "group",
    [pytest.param(n, marks=pytest.mark.slow if n >= FAST else ()) for n in range(FULL)],
)
def test_laws(group):
    broken, refused, number = [], collections.Counter(), 0
    for configuration in configurations(GROUP * FULL)[group * GROUP : (group + 1) * GROUP]:
        cases, found, reason = tested(configuration)
        broken += found
        number += len(cases)
        refused[reason] += reason is not None
    print(f"{number} cases")
    assert not broken, "\n".join(broken)
