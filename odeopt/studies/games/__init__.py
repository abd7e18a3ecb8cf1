"""Games of two players: what integration error does to them, in the plane and in a GAN.

`run` does the whole study; `odeopt games` is the same from a shell.
"""

from . import figures as figures
from . import mixture as mixture
from . import page as page
from . import plane as plane
from .study import Result as Result
from .study import run as run
