"""Flows that wrap another flow."""

import dataclasses
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, ClassVar

from jaxtyping import Array, Bool, PyTree

from ..arrays import Scalar
from ..checks import check_kind
from ..information import Information
from ..objective import Objective, count_gradients
from .flow import AbstractFlow, Fused, Moved, Share, State, Substeps


class AbstractWrapper(AbstractFlow):
    """A flow that changes the parts or the auxiliary variables of `base`.

    It forwards what the change leaves true, so neither the fused step nor the potential of `base`.
    A subclass overrides the hooks it needs:

    - `inner(aux)` and `outer(aux, inner)`: the auxiliary variables of `base` within its own.
    - `moved(inner)`: its own increment, given the increment of `base`.

    Attributes:
      base: the flow.
    """

    base: AbstractFlow

    def __check_init__(self) -> None:
        check_kind(AbstractFlow, "flows.AdamFlow()", base=self.base)

    has: ClassVar[Any] = property(lambda self: self.base.has & ~Information.POTENTIAL)
    parts: ClassVar[Any] = property(attrgetter("base.parts"))
    gradient_part: ClassVar[Any] = property(attrgetter("base.gradient_part"))
    needs_params: ClassVar[Any] = property(attrgetter("base.needs_params"))
    no_field: ClassVar[Any] = property(attrgetter("base.no_field"))

    @property
    def linear(self) -> bool:
        """Whether `base` is."""
        return self.base.linear

    @property
    def each(self) -> Sequence[AbstractFlow]:
        """The flows of `base`, each changed in the same way."""
        return [dataclasses.replace(self, base=base) for base in self.base.each]

    def inner(self, aux: PyTree[Array]) -> PyTree[Array]:
        """The auxiliary variables of `base`."""
        return aux

    def outer(self, aux: PyTree[Array], inner: PyTree[Array]) -> PyTree[Array]:
        """`aux` with the auxiliary variables of `base` replaced by `inner`."""
        return inner

    def moved(self, inner: PyTree[Array]) -> PyTree[Array]:
        """The increment of the auxiliary variables, given that of the variables of `base`."""
        return inner

    def seen(self, objective: Any, h: Scalar) -> Any:
        """The objective as `base` sees it."""
        return objective

    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        return self.base.init(params)

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        update, aux = self.base.increment((z[0], self.inner(z[1])), self.seen(objective, h), h)
        return update, self.moved(aux)

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        inside = z[0], self.inner(z[1])
        update, aux = self.base.part(name, inside, self.seen(objective, h), h, fraction)
        return update, self.outer(z[1], aux)

    def looks_again(self, name: str, moved: Sequence[str]) -> bool:
        return self.base.looks_again(name, moved)

    def descent(self, z: State, objective: Objective, *, seen: bool = False) -> PyTree[Array]:
        """The `descent` of `base`, for the unchanged loss."""
        return self.base.descent((z[0], self.inner(z[1])), objective, seen=seen)

    def heading(self, z: State) -> PyTree[Array]:
        return self.base.heading((z[0], self.inner(z[1])))

    def owed(self, aux: PyTree[Array]) -> Bool[Array, ""] | None:
        return self.base.owed(self.inner(aux))


class AbstractObjectiveWrapper(AbstractWrapper):
    """A flow that changes nothing but the objective that `base` sees (`seen`).

    It forwards everything, the fused step and the potential too.
    """

    has: ClassVar[Any] = property(attrgetter("base.has"))

    def around(self, change: Callable[[AbstractFlow], AbstractFlow]) -> AbstractFlow:
        """Change `base`: a change of the flow commutes with the change of the objective."""
        return dataclasses.replace(self, base=self.base.around(change))

    def fused(self, substeps: Substeps, z: State, objective: Objective, h: Scalar) -> Fused:
        def step(objective: Objective, z: State, h: Scalar) -> Any:
            at_once = self.base.fused(substeps, z, self.seen(objective, h), h)
            return None if at_once is None else at_once[:2]  # its count assumes a plain objective

        found = step(objective, z, h)
        return None if found is None else (*found, count_gradients(step, z, h, given=True))

    def potential(self, objective: Objective, h: Scalar) -> Any:
        return self.base.potential(self.seen(objective, h), h)

    def rest(self, z: State, h: Scalar, fraction: float) -> Any:
        return self.base.rest(z, h, fraction)
