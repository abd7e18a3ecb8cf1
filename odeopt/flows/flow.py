"""What a flow is. May use: `odeopt.objective`."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ..objective import Gradient

State = tuple[PyTree[Array], PyTree[Array]]
"""`z = (params, aux)`: the parameters, and whatever else moves with them."""


class AbstractFlow(eqx.Module):
    """A vector field `dz/dt = field(z)` on `z = (params, aux)`.

    A solver steps it by `h`, in units of flow time. `h` is handed to the field because a
    drift-corrected field depends on it; a plain one ignores it.
    """

    @abc.abstractmethod
    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        """The auxiliary variables at time 0. Structural: shapes and dtypes only, no values."""

    @abc.abstractmethod
    def field(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> State:
        """`dz/dt` at `z`, a tree like `z`; the gradient at its own point is `gradient.here`."""
