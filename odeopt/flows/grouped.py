"""One flow for each group of leaves, all on one clock."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from ..arguments import by_leaf
from ..arrays import Scalar
from ..checks import check_kind, check_positive
from ..information import Information
from ..objective import Objective
from .clock import by_step
from .flow import AbstractFlow, Moved, Share, State


class Groups(NamedTuple):
    """The auxiliary variables of a grouped flow.

    Attributes:
      of: by label, the auxiliary variables of each group's flow.
      age: steps since the start, as a real number.
    """

    of: dict[str, PyTree[Array]]
    age: Scalar


class GroupedFlow(AbstractFlow):
    r"""Every group of leaves follows a flow of its own, and all are stepped as one system.

    Like `optax.partition`, but a solver of several stages, a step-size rule or a counter-term sees
    the whole system: all groups are at the same stage. A stage takes one gradient of the loss.

    Args:
      flows: by label, the flow of a group.
      labels: a tree of labels like the parameters, or a function of the parameters that returns
        one (which may look at shapes and names, not at values).
      paces: by label, the step size of a group with a flow time of its own: a number, or a schedule
        of the number of steps. The other groups take the step size of the optimizer.

    Raises:
      ValueError: flows that name different parts; a pace that is not positive; a pace, or in `init`
        a label, without a flow.
      TypeError: something that is no flow.
    """

    flows: dict[str, AbstractFlow]
    labels: Any = eqx.field(static=True)
    paces: dict[str, Any] = eqx.field(
        default_factory=dict, converter=lambda paces: {k: by_step(h) for k, h in paces.items()}
    )

    def __check_init__(self) -> None:
        for label, flow in self.flows.items():
            check_kind(AbstractFlow, "flows.AdamFlow()", **{f"flows[{label!r}]": flow})
        check_positive(**{f"the step size of {k!r}": h for k, h in self.paces.items()})
        unknown = self.paces.keys() - self.flows.keys()
        if unknown:
            raise ValueError(
                f"paces has {sorted(unknown)}, and flows are for {sorted(self.flows)}."
            )
        if len({flow.parts for flow in self.flows.values()}) != 1:
            raise ValueError(
                "The flows of a GroupedFlow are composed part by part, so all must name the same "
                f"parts: { {label: flow.parts for label, flow in self.flows.items()} }."
            )

    @property
    def _all(self) -> list[AbstractFlow]:
        return list(self.flows.values())

    @property
    def each(self) -> list[AbstractFlow]:
        """The flows of the groups."""
        return [flow for group in self._all for flow in group.each]

    @property
    def has(self) -> Information:  # type: ignore[override]
        """The information that all flows provide, except for the potential."""
        shared = (flow.has for flow in self._all)
        return functools.reduce(Information.__and__, shared) & ~Information.POTENTIAL

    @property
    def linear(self) -> bool:
        """Whether the flows of all groups are linear, and none has a pace of its own."""
        return all(flow.linear for flow in self._all) and not self.paces

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """The parts, which all flows share."""
        return self._all[0].parts

    @property
    def needs_params(self) -> bool:  # type: ignore[override]
        """Whether the flow of any group needs them."""
        return any(flow.needs_params for flow in self._all)

    @property
    def no_field(self) -> str:
        """The reason of the first flow that has none."""
        return next((flow.no_field for flow in self._all if flow.no_field), "")

    @property
    def gradient_part(self) -> str | None:  # type: ignore[override]
        """The gradient part of all flows, if it is the same; else None."""
        found = {flow.gradient_part for flow in self._all}
        return found.pop() if len(found) == 1 else None

    def looks_again(self, name: str, moved: Sequence[str]) -> bool:
        return any(flow.looks_again(name, moved) for flow in self._all)

    def init(self, params: PyTree[Array]) -> Groups:
        groups = self._groups(params)
        missing = {*jax.tree.leaves(groups)} - self.flows.keys()
        if missing:
            raise ValueError(
                f"A leaf has the label {sorted(map(str, missing))[0]!r}, and GroupedFlow has flows "
                f"for {sorted(self.flows)}."
            )
        return Groups(
            {label: flow.init(_only(params, groups, label)) for label, flow in self.flows.items()},
            jnp.zeros([], float),
        )

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        moved = self._each(lambda flow, *here: flow.increment(*here), z, objective, h)
        return moved[0], Groups(moved[1], jnp.ones_like(z[1].age))

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        update, after = self._each(
            lambda flow, *here: flow.part(name, *here, fraction), z, objective, h
        )
        ends = fraction if name == self.parts[-1] else 0.0
        return update, Groups(after, z[1].age + ends)

    def descent(self, z: State, objective: Objective, *, seen: bool = False) -> PyTree[Array]:
        return self._each(
            lambda flow, z, objective, _: (flow.descent(z, objective, seen=seen), z[1]),
            z,
            objective,
            jnp.zeros([]),
        )[0]

    def heading(self, z: State) -> PyTree[Array]:
        return self._each(
            lambda flow, z, *_: (flow.heading(z), z[1]), z, Objective({}), jnp.zeros([])
        )[0]

    def owed(self, aux: Groups) -> Bool[Array, ""] | None:
        owed = (flow.owed(aux.of[label]) for label, flow in self.flows.items())
        return next((first for first in owed if first is not None), None)

    def aged(self, aux: Groups, grads: PyTree[Array], back: PyTree[Array]) -> PyTree[Array]:
        groups = self._groups(grads)
        of = {
            label: flow.aged(aux.of[label], _only(grads, groups, label), _only(back, groups, label))
            for label, flow in self.flows.items()
        }
        return Groups(of, None)  # type: ignore[arg-type]

    def _groups(self, params: PyTree[Array]) -> PyTree[str]:
        return by_leaf("labels", self.labels, params)

    def _each(
        self,
        step: Callable[[AbstractFlow, State, Any, Array], tuple[Any, Any]],
        z: State,
        objective: Objective,
        h: Scalar,
    ) -> tuple[PyTree[Array] | None, dict[str, PyTree[Array]]]:
        params, aux = z
        groups, seen = self._groups(params), functools.cache(lambda: objective.here(params))
        updates, after = [], {}
        for label, flow in self.flows.items():
            own = h
            if label in self.paces:
                own = self.paces[label]
                own = own.at_age(aux.age) if callable(own) else own
                own = jnp.where(jnp.asarray(own) >= 0, own, jnp.nan)  # rejects the step
            of_group: Any = _Group(objective, params, seen, groups, label)
            here = _only(params, groups, label), aux.of[label]
            update, after[label] = step(flow, here, of_group, jnp.asarray(own, float))
            updates.append(update)
        if all(update is None for update in updates):
            return None, after
        still = jax.tree.map(jnp.zeros_like, params)
        updates = [still if update is None else update for update in updates]
        labels = list(self.flows)
        return jax.tree.map(lambda label, *of: of[labels.index(label)], groups, *updates), after


@Objective.register  # it implements everything that a flow calls
@dataclasses.dataclass(frozen=True)
class _Group:
    """The objective of one group, with all other leaves held fixed."""

    whole: Objective
    params: PyTree[Array]
    seen: Callable[[], PyTree[Array]]  # the gradient at `params`; taken once for all groups
    groups: PyTree[str]  # the label of each leaf
    label: str
    given: PyTree[Array] | None = None  # another gradient, of the group

    with_given = Objective.with_given

    def here(self, params: PyTree[Array]) -> PyTree[Array]:
        """The group's part of the gradient."""
        if self.given is not None:
            return self.given
        own = _only(self.params, self.groups, self.label)
        same = all(map(operator.is_, jax.tree.leaves(params), jax.tree.leaves(own)))
        grads = self.seen() if same else self.whole.here(self._with(params))
        return _only(grads, self.groups, self.label)

    def gradient(self, params: PyTree[Array]) -> PyTree[Array]:
        """The group's part of the gradient, evaluated."""
        return _only(self.whole.gradient(self._with(params)), self.groups, self.label)

    product = Objective.product  # with the group's block of the Hessian
    elsewhere = Objective.elsewhere

    def linearized(self, gradient: Any, params: PyTree[Array], cost: int) -> Any:
        """The linearization by the whole objective."""
        return self.whole.linearized(gradient, params, cost)

    def _with(self, own: PyTree[Array]) -> PyTree[Array]:
        pick = lambda label, x, new: new if label == self.label else x  # noqa: E731
        return jax.tree.map(pick, self.groups, self.params, own)


def _only(tree: PyTree[Array], groups: PyTree[str], label: str) -> PyTree[Array]:
    """The leaves of one group, and `optax.MaskedNode()` in the place of others."""
    return jax.tree.map(lambda own, x: x if own == label else optax.MaskedNode(), groups, tree)
