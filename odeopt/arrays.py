"""Names of what signatures take."""

from typing import TypeAlias

from jaxtyping import Array, Float

Scalar: TypeAlias = Float[Array, ""]
"""A real number as an array, such as a step size or a loss."""
