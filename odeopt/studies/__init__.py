"""Questions people ask of an optimizer, each a module with a `run()` and a report.

`odeopt.studies.stability.run` races solvers against SGD over learning rates and seeds.
Nothing in the library imports this package; it needs the `studies` extra.
"""
