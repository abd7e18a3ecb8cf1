"""What makes a study of its declaration: work, results on disk, tables, claims, figures, report."""

from .problem import Problem as Problem
from .study import CHECKS as CHECKS
from .study import Check as Check
from .study import Claim as Claim
from .study import Figure as Figure
from .study import Lab as Lab
from .study import Results as Results
from .study import Study as Study
from .study import Table as Table
from .study import Task as Task
from .study import at_least as at_least
from .study import whole as whole
