"""beartype as `pytest --jaxtyping-packages=odeopt,runtime_types.check` applies it to odeopt."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as in type hints
