"""Diagnostics of the loss and the network at the current parameters."""

from .drift import Drift as Drift
from .drift import DriftTerms as DriftTerms
from .drift import corridor as corridor
from .drift import drift as drift
from .drift import drift_terms as drift_terms
from .geometry import class_distance as class_distance
from .geometry import geometric_complexity as geometric_complexity
from .geometry import margin as margin
from .sharpness import Sharpness as Sharpness
from .sharpness import batch_sharpness as batch_sharpness
from .sharpness import sharpness as sharpness
from .spectrum import Spectrum as Spectrum
from .spectrum import gauss_newton_spectrum as gauss_newton_spectrum
from .spectrum import spectrum as spectrum
from .spectrum import stability_coefficients as stability_coefficients
