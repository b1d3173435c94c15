"""What `from writ import ...` offers: all that a call of the client takes, at no cost before it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import msgspec

import writ


def types_in(hint: Any, seen: set[Any]) -> Iterator[type]:
    """Our own classes that a type is made of, also by the fields of its documents."""
    if hint in seen:
        return
    seen.add(hint)
    for part in get_args(hint):
        if not isinstance(part, str | msgspec.Meta):
            yield from types_in(part, seen)
    if isinstance(hint, type) and hint.__module__.startswith("writ."):
        yield hint
        if issubclass(hint, msgspec.Struct):
            for field in msgspec.structs.fields(hint):
                yield from types_in(field.type, seen)


def test_all_that_the_client_takes_is_public() -> None:
    needed: set[str] = set()
    for name, method in inspect.getmembers(writ.Client, inspect.isfunction):
        if not name.startswith("_"):
            hints = get_type_hints(method)
            hints.pop("return")
            for hint in hints.values():
                needed |= {found.__name__ for found in types_in(hint, set())}
    assert {"Plan", "Filter", "QueuePolicy", "Overlap", "JobHandle"} <= needed, (
        "what the test itself must find"
    )
    assert needed <= set(writ.__all__), sorted(needed - set(writ.__all__))


def test_every_name_is_what_it_says() -> None:
    for name in writ.__all__:
        value = getattr(writ, name)
        assert name in ("__version__", "task", "tool") or value.__name__ == name
    assert sorted(writ.__all__) == writ.__all__


def test_one_name_loads_its_own_room_alone() -> None:
    code = (
        "import sys; from writ import QueuePolicy, ScheduleSpec, State;"
        "heavy = {'nats', 'writ.broker', 'writ.workers', 'asyncio'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
