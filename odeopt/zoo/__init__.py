"""The named optimizers: each is a flow, a solver and a step size. `odeopt` exports them."""
