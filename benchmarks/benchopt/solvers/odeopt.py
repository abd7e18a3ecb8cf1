"""odeopt's optimizers, under the names that `odeopt stability` and `odeopt benchmark` give them."""

from benchmark_utils import CountedSolver

from odeopt.studies.benchmark import untuned_makers
from odeopt.studies.engine.optimizers import Entry, entry, find
from odeopt.studies.names import lookup


class Solver(CountedSolver):
    """A rate of None is for those that need none: `untuned`, told the budget, and `log_time_adam`.

    Where a rule chooses the step size, the rate is the rule's first step or tolerance.
    """

    name = "odeopt"
    requirements = ["pip::odeopt-jax[studies]"]
    parameters = {
        "optimizer, learning_rate": [
            ("untuned", None),
            ("log_time_adam", None),
            ("linearly_implicit_euler", 0.1),
            ("rk4", 0.3),
        ]
    }
    test_config = {"optimizer": "rk4", "learning_rate": 0.3}

    optimizer: str

    def make_entry(self) -> Entry:
        if self.learning_rate is not None:
            return find(self.optimizer)
        makers = untuned_makers(self.gradients)
        make = lookup("optimizer without a learning rate", self.optimizer, makers)
        return entry(self.optimizer, make, tuned=False)
