"""optax's optimizers, with the schedules of `odeopt benchmark`."""

from benchmark_utils import CountedSolver

from odeopt.studies.engine.optimizers import Entry, find
from odeopt.studies.engine.rivals import RIVALS, scheduled


class Solver(CountedSolver):
    """`sgd`, or one of `odeopt.studies.engine.rivals.RIVALS`; schedules end with the budget."""

    name = "optax"
    requirements = ["pip::odeopt-jax[studies]"]
    parameters = {
        "optimizer, learning_rate": [
            ("sgd", 0.3),
            ("momentum+linear", 0.1),
            ("adam+cosine", 0.01),
            ("schedule-free", 0.01),
        ]
    }

    optimizer: str

    def make_entry(self) -> Entry:
        if self.optimizer in RIVALS:
            return scheduled(self.optimizer, self.gradients)
        return find(self.optimizer)
