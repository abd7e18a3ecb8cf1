"""Fused updates, each one formula, run by XLA or by a Pallas kernel for GPU and TPU."""

from .adam import AdamNumbers as AdamNumbers
from .adam import adam_step as adam_step
from .choice import MEASURED as MEASURED
from .choice import Kernel as Kernel
from .choice import using as using
from .linear import combination as combination
from .linear import momentum_step as momentum_step
from .rounding import add_rounded as add_rounded
