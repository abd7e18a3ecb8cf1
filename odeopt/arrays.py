"""Names of what signatures take. May use: jaxtyping."""

from typing import TypeAlias

from jaxtyping import Array, Float

Scalar: TypeAlias = Float[Array, ""]
"""A real number as an array, such as a step size or a loss."""
