"""Ctrl-C during the import of the command, which takes seconds, prints one line and exits.

This module uses only the standard library and is imported first: `odeopt` and `python -m odeopt`
import the package before they run their own code. Any other program keeps its signal handling.
"""

import os
import signal
import sys
from pathlib import PurePath
from typing import Any


def is_command(words: list[str], original: list[str]) -> bool:
    """Whether these are `sys.argv` and `sys.orig_argv` of `odeopt` or `python -m odeopt`."""
    if words[:1] == ["-m"]:  # Python's placeholder until it has found the file of the module
        return original[-len(words)] == "odeopt"
    return bool(words) and PurePath(words[0]).stem == "odeopt"


def end(*_: Any) -> None:
    """Handle the signal: print one line and exit."""
    os.write(2, b"Interrupted.\n")
    os._exit(130)


def over() -> None:
    """Let Ctrl-C raise a `KeyboardInterrupt` again."""
    if signal.getsignal(signal.SIGINT) is end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if (
    is_command(sys.argv, sys.orig_argv)
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, end)
