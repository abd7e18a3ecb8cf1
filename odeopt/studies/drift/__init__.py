"""What is the drift of gradient descent, and what does it do? Flows beside iterates, and trends.

`run` does the whole study; `odeopt drift` is the same from a shell.
"""

from . import figures as figures
from . import page as page
from . import paths as paths
from . import trends as trends
from .study import Result as Result
from .study import run as run
