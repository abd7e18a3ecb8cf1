"""Flags for what the parts of an optimizer offer and need; compared when it is built."""

import enum


class Information(enum.Flag):
    """What a flow, a solver or a mode offers, and what a step-size rule needs.

    Attributes:
      VALUE: the loss can be evaluated.
      PRODUCT: products with the Hessian of the loss can be taken.
      POINT: the parameters are given along with their gradient.
      ERROR: the solver estimates its local error.
      DESCENT: a small step of the flow lowers the loss.
      POTENTIAL: the flow is the gradient flow of a loss, `flow.potential`.
      HEADING: the flow knows the direction in which the parameters have been moving.
    """

    NONE = 0
    VALUE = enum.auto()
    PRODUCT = enum.auto()
    POINT = enum.auto()
    ERROR = enum.auto()
    DESCENT = enum.auto()
    POTENTIAL = enum.auto()
    HEADING = enum.auto()


def names(flags: Information) -> str:
    """The flags in words, for an error message."""
    return ", ".join(_WORDS[flag] for flag in Information if flag in flags)


_WORDS = {
    Information.VALUE: "the loss",
    Information.PRODUCT: "Hessian products",
    Information.POINT: "the parameters",
    Information.ERROR: "an error estimate",
    Information.DESCENT: "a flow that descends the loss",
    Information.POTENTIAL: "the gradient flow of a loss",
    Information.HEADING: "a flow that knows its heading",
}
