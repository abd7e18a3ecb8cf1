"""Problems of `odeopt benchmark`, most of them with validation and test data."""

from typing import Any

from benchopt import BaseDataset

from odeopt.studies.benchmark_problems import build


class Dataset(BaseDataset):
    """A key of `odeopt.studies.benchmark_problems.CONTESTS`."""

    name = "benchmark"
    requirements = ["pip::odeopt-jax[studies]"]
    parameters = {"problem": ["diabetes", "wine", "digit-rows"]}
    test_parameters = {"problem": ["wine"]}

    problem: str

    def get_data(self) -> dict[str, Any]:
        return {"problem": build([self.problem])[0]}
