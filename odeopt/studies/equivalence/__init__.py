"""Is a learning rate a step size? Three claims about flow time, limits and orders, in figures.

`run` does the whole study; `odeopt equivalence` is the same from a shell.
"""

from . import figures as figures
from . import page as page
from .study import Result as Result
from .study import run as run
