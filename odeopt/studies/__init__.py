"""Questions people ask of an optimizer, each a declaration that the engine makes.

`odeopt.studies.stability.run` races solvers against SGD over learning rates and seeds; a `Problem`
of your own is taken by every study that races optimizers. Nothing in the library imports this
package; it needs the `studies` extra.
"""

from .engine.problem import Problem as Problem
from .game_own import Game as Game
