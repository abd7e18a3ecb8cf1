"""The `odeopt` command."""

import sys

from . import interrupt


def main() -> None:
    """Run the command line, or say which packages it lacks."""
    try:
        _run()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def _run() -> None:
    try:
        from .cli import main as run  # noqa: PLC0415 - its packages are an extra
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("odeopt"):
            raise
        sys.exit(
            f"odeopt's studies need the package {error.name!r}, which is not installed. "
            "Install them with: pip install 'odeopt-jax[studies]'"
        )
    interrupt.over()  # the command line reports it itself
    run()


if __name__ == "__main__":
    main()
