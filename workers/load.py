"""Finding tasks by where they stand: a module's name, a file, or one name in either."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import LoadError
from .tasks import Task


def load(place: str) -> list[Task[..., Any]]:
    """The tasks in `package.module`, in a file `path/tasks.py`, or the one that `:name` after either names.

    The current directory is looked in, too. Raises LoadError, which says what was looked for and found.
    """
    path, colon, attribute = place.partition(":")
    if not path or (colon and not attribute):
        raise LoadError(
            f"{place!r} names no module; write package.module, path/tasks.py, or either with :name"
        )
    module = _load_file(Path(path)) if path.endswith(".py") or "/" in path else _load_module(path)
    if not attribute:
        tasks = tasks_in(module)
        if not tasks:
            raise LoadError(f"{place} holds no task; put @task above a function in it")
        return tasks
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            names = ", ".join(sorted(t.name for t in tasks_in(module))) or "none"
            raise LoadError(f"{path} has no {attribute}; its tasks are: {names}")
        found = getattr(found, name)
    if isinstance(found, ModuleType):
        return tasks_in(found)
    kind = type(found).__name__
    tasks = tasks_among([found] if kind == Task.__name__ else found)
    if not tasks:
        raise LoadError(f"{place} is a {kind}, not a task; put @task above the function")
    return tasks


def tasks_in(module: ModuleType) -> list[Task[..., Any]]:
    """The tasks among a module's names, each once, in their order."""
    return tasks_among(vars(module).values())


def tasks_among(values: Any) -> list[Task[..., Any]]:
    """The tasks among some values, each once; none where it is nothing to go through."""
    found: dict[int, Task[..., Any]] = {}
    if isinstance(values, Iterable):
        for each in list[Any](values):  # pyright: ignore[reportUnknownArgumentType] - of anything
            if isinstance(each, Task):
                found.setdefault(id(each), each)  # pyright: ignore[reportUnknownArgumentType] - of any task
    return list(found.values())


def _load_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            hint = f"; for a file write {name}.py" if Path(f"{name}.py").is_file() else ""
            raise LoadError(f"no module {missing} in {here} or on the Python path{hint}") from error
        raise LoadError(f"{name} imports {missing}, which is not installed") from error
    except Exception as error:
        raise LoadError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LoadError(f"no file {path} in {Path.cwd()}")
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path} is not a Python file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # so that it finds the modules beside it
    module = importlib.util.module_from_spec(spec)
    known = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        if known is None:
            del sys.modules[name]
        else:
            sys.modules[name] = known
        raise LoadError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
