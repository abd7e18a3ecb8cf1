"""Problems and optimizers in a user's own files."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from odeopt.studies import stability
from odeopt.studies.engine.checksums import fingerprint
from odeopt.studies.engine.load import load, own_problems

FILE = """
import jax, numpy as np
from odeopt.studies import Problem
{more}

mine = Problem(
    lambda x, batch: SCALE * jax.numpy.mean(batch[0] @ x**2),
    lambda seed: jax.random.normal(jax.random.key(seed), (3,)),
    (np.ones((4, 3)),),
    name={name!r},
)
"""


def written(folder, name="mine", more="SCALE = 1.0"):
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(FILE.format(name=name, more=more))
    return f"{folder / 'model.py'}:mine"


@pytest.mark.slow
def test_a_file_gives_the_problem_that_python_gives(tmp_path):
    """Studies compute in 64 bits what was made in 64 bits, and draw what was drawn."""
    word = written(tmp_path / "one")
    options = {"solvers": ["sgd"], "seeds": 1, "gradients": 4}
    found = stability.run(problems=[word], **options)
    (problem,) = found.settings.problems
    assert problem.dtype is np.float32
    same = stability.run(problems=[load(word)], **options)
    assert found.table("summary").equals(same.table("summary"))


def test_neighbours_of_one_name_in_two_folders_are_two(tmp_path):
    words = []
    for name, scale in (("first", 1.0), ("second", 5.0)):
        words.append(written(tmp_path / name, name, "from neighbour import SCALE"))
        (tmp_path / name / "neighbour.py").write_text(f"SCALE = {scale}\n")
    first, second = own_problems(words, ())
    x = jax.numpy.ones(3)
    assert second.full_loss(x, second.data) == 5 * first.full_loss(x, first.data)


def test_a_file_that_fails_says_in_which_line(tmp_path):
    word = written(tmp_path, more="import neighbour\nneighbour.half(0)")
    (tmp_path / "neighbour.py").write_text("def half(x):\n    return 1 / x\n")
    with pytest.raises(ValueError, match=r"fails: ZeroDivisionError: division by zero \(line 5\)"):
        load(word)
    word = written(tmp_path, more="SCALE = ")
    with pytest.raises(ValueError, match=r"fails: SyntaxError: .*line 4\)$"):
        load(word)


def test_a_name_of_the_study_is_refused(tmp_path):
    with pytest.raises(ValueError, match="spiral is a problem of the study: give yours another"):
        own_problems([written(tmp_path, "spiral")], ["spiral", "quadratic"])


@pytest.mark.slow
def test_an_optimizer_with_an_object_of_its_file_is_the_same_in_every_process(tmp_path):
    """Its checksum is compared on --resume, in another process than that which wrote it."""
    (tmp_path / "mine.py").write_text(
        "import optax\n"
        "class Rule:\n"
        "    def update(self, grads, state, params=None):\n"
        "        return grads['mine'], state\n"  # not for the parameters of the checksum
        "def maker(rule):\n"
        "    return lambda h: optax.GradientTransformation(lambda params: (), rule.update)\n"
        "make = maker(Rule())\n"
    )
    word = f"{tmp_path / 'mine.py'}:make"
    code = (
        "import sys\n"
        "from odeopt.studies.engine.checksums import fingerprint\n"
        "from odeopt.studies.engine.load import load\n"
        "print(fingerprint(load(sys.argv[1])))\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", code, word], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == fingerprint(load(word))
