"""At the end of tuned schedules the speed-up of newer optimizers over AdamW is 1.1 to 1.4."""

from ..claim import Claim

CLAIM = Claim(
    __doc__,
    ("fair",),
    unreachable="it is about pretraining language models of a hundred million parameters and more, "
    "each optimizer tuned; `odeopt benchmark` compares by a similar protocol on small problems",
)
