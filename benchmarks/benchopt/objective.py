"""The loss of a problem of odeopt's studies, and what is held out, against gradients."""

from typing import Any

import jax
from benchopt import BaseObjective
from benchopt.stopping_criterion import NoCriterion

from odeopt.studies.benchmark_problems import contest
from odeopt.studies.engine.problem import Problem


class Objective(BaseObjective):
    """What decides on a problem is `value`: the validation loss, or else the training loss."""

    name = "loss"
    min_benchopt_version = "1.10"
    requirements = ["pip::odeopt-jax[studies]"]
    parameters = {"gradients": [500]}
    test_config = {"gradients": 9}
    test_dataset_name = "stability"
    # Every run has the same budget, so that lack of progress ends none; what diverges is stopped.
    stopping_criterion = NoCriterion(key_to_monitor="value")

    gradients: int

    def set_data(self, problem: Problem) -> None:
        self.problem = problem
        self.measured = jax.jit(problem.measured)

    def get_objective(self) -> dict[str, Any]:
        seed = self.get_seed(use_repetition=True)
        return {"problem": self.problem, "gradients": self.gradients, "seed": seed}

    def evaluate_result(self, params: Any) -> dict[str, float]:
        measured = self.measured(params, self.problem.data, self.problem.validation)
        found = {name.replace(" ", "_"): float(value) for name, value in measured.items()}
        return {"value": found[contest(self.problem).criterion], **found}

    def get_one_result(self) -> dict[str, Any]:
        return {"params": self.problem.start(0)}
