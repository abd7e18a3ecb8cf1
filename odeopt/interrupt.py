"""Ctrl-C while the command is imported, which takes seconds, ends it in one line.

Standard library only, and imported first: `odeopt` and `python -m odeopt` import the package before
they run a line of their own. Any other program keeps its handling of signals.
"""

import os
import signal
import sys
from pathlib import PurePath
from typing import Any


def is_command(words: list[str], original: list[str]) -> bool:
    """Whether these are `sys.argv` and `sys.orig_argv` of `odeopt` or `python -m odeopt`."""
    if words[:1] == ["-m"]:  # which stands for the file of the module until that is found
        return original[-len(words)] == "odeopt"
    return bool(words) and PurePath(words[0]).stem == "odeopt"


def end(*_: Any) -> None:
    """Handles the signal."""
    os.write(2, b"Interrupted.\n")
    os._exit(130)


def over() -> None:
    """From here on Ctrl-C raises a `KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if (
    is_command(sys.argv, sys.orig_argv)
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, end)
