"""Problems of `odeopt stability`, of which the training loss decides."""

from typing import Any

from benchopt import BaseDataset

from odeopt.studies.problems import build


class Dataset(BaseDataset):
    """A key of `odeopt.studies.problems.PROBLEMS`."""

    name = "stability"
    requirements = ["pip::odeopt-jax[studies]"]
    parameters = {"problem": ["logistic", "digits-ce-64"]}
    test_parameters = {"problem": ["logistic"]}

    problem: str

    def get_data(self) -> dict[str, Any]:
        return {"problem": build([self.problem])[0]}
