"""What makes a study of its declaration: work, results on disk, tables, claims, figures, report."""

from .problem import Problem as Problem
from .settings import at_least as at_least
from .study import CHECKS as CHECKS
from .study import Figure as Figure
from .study import Results as Results
from .study import Study as Study
from .study import Table as Table
from .study import groups as groups
from .verdicts import Check as Check
from .verdicts import Claim as Claim
from .verdicts import compared as compared
from .verdicts import each as each
from .verdicts import span as span
from .work import Lab as Lab
from .work import Task as Task
from .work import whole as whole
