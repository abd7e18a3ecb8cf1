"""In which order should batches act? Backward, palindromic and averaged runs beside forward ones.

`run` does the whole study; `odeopt order` is the same from a shell.
"""

from . import epochs as epochs
from . import figures as figures
from . import page as page
from . import rest as rest
from .study import Result as Result
from .study import run as run
