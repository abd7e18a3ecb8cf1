"""A user's own problems and optimizers, from a Python file: `my_model.py:problem`."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..names import lookup
from .checksums import checksum
from .problem import Problem
from .refusals import refuse_curved, refuse_lost
from .settings import items

_WORDS: dict[int, str] = {}


def word_of(item: Any) -> str:
    """A setting as it is written on a command line; an object of the user's as FILE.py:NAME."""
    if isinstance(item, str | int | float):
        return str(item)
    inside = list(item.values()) if isinstance(item, Mapping) else []
    known = (_WORDS[id(one)] for one in (item, *inside) if id(one) in _WORDS)
    return next(known, "FILE.py:NAME")


def load(word: str) -> Any:
    """The object of that name in that file, which is run once; a `ValueError` says what fails."""
    file, _, name = word.rpartition(":")
    if not file:
        raise ValueError(f"{word} is a file: which of its names is meant? Write {word}:problem.")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"{word}: there is no file {path}; write my_model.py:problem.")
    folder = str(path.resolve().parent)
    module_name = f"_odeopt_own_{path.stem}_{checksum((), path.resolve())}"  # in every process
    module = sys.modules.get(module_name)
    if module is None:
        spec: Any = importlib.util.spec_from_file_location(module_name, path.resolve())
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        known = set(sys.modules)
        sys.path.insert(0, folder)  # for its own imports
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[module_name]
            frames = traceback.extract_tb(error.__traceback__)
            lines = [one.lineno for one in frames if one.filename == str(path.resolve())]
            where = f" (line {lines[-1]})" if lines else ""
            raise ValueError(f"{path} fails: {type(error).__name__}: {error}{where}") from error
        finally:
            sys.path.remove(folder)
            fresh = {*sys.modules} - known  # of which another folder may have the names
            for other in [one for one in fresh if _is_in(folder, one.partition(".")[0])]:
                del sys.modules[other]
    public = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    try:
        found = lookup("name", name, public)
        _WORDS[id(found)] = word  # its module keeps it, so that no other object has this id
        return found
    except ValueError as error:
        raise ValueError(f"{path} has no {name!r}: {error}") from None


def _is_in(folder: str, module: str) -> bool:
    """Whether a module is a file of a folder, or a package there."""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return folder in (str(file.parent), file.name == "__init__.py" and str(file.parent.parent))


def preload(asked: Any) -> None:
    """Run the files of one setting, whose arrays then have the dtypes of JAX as it is set now."""
    for word in filter(is_own, items(asked)):
        load(word)


def is_own(word: Any) -> bool:
    """Whether a word of the command line means an object in a file."""
    return isinstance(word, str) and (".py:" in word or word.endswith(".py"))


def own_problems(
    asked: Iterable[Any],
    known: Iterable[str],
    kind: type[Any] = Problem,
    made: str = "loss, init, data",
) -> tuple[Any, ...]:
    """Known names, and problems of the user's of that `kind`, loaded where they are in a file.

    Raises:
        ValueError: For anything else, where it says what a problem is `made` of, for a loss that
            is not finite at the start, on data or validation data, or quadratic in name only.
    """
    names, found = dict.fromkeys(known), dict[str, Any]()
    for item in asked:
        one = load(item) if is_own(item) else item
        if isinstance(one, str):
            lookup("problem", one, names)
        elif not isinstance(one, kind):
            raise ValueError(
                f"{item!s:.60} is a {type(one).__name__}, not a {kind.__name__.lower()}: make it "
                f"with odeopt.studies.{kind.__name__}({made})."
            )
        elif one.name in names:
            what = "is a problem of the study: give yours another name, name=..."
            raise ValueError(f"{one.name} {what}")
        elif isinstance(one, Problem):
            refuse_lost(one)
            refuse_curved(one)
        name = one if isinstance(one, str) else one.name
        if name in found:
            raise ValueError(
                f"two problems are called {name!r}, which tables tell apart by name: give one "
                "another, name=..."
            )
        found[name] = one
    return tuple(found.values())


def built(
    names: Iterable[str | Problem], known: Mapping[str, Callable[[], Problem]]
) -> list[Problem]:
    """Problems by name, made; a problem is taken as it is."""
    return [
        name if isinstance(name, Problem) else lookup("problem", name, known)() for name in names
    ]


def own_optimizers(asked: Iterable[Any]) -> tuple[Any, ...]:
    """Names as they are, and optimizers of the user's as mappings from name to function."""

    def loaded(word: str) -> Any:
        found = load(word)
        return found if isinstance(found, dict) else {word.rpartition(":")[2]: found}

    return tuple(loaded(item) if is_own(item) else item for item in asked)
