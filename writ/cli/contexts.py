"""`writ login` and `writ context`: places and principals by name, kept in the user's own configuration.

The file is `contexts.json` in `$XDG_CONFIG_HOME/writ` [~/.config/writ], mode 0600. It names the file of an
NKey seed and never holds one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from .output import Table, next_steps, print_json
from .usage import CommandError, UsageError

_FILE: Final = "contexts.json"
_MODE: Final = 0o600
_EXAMPLE: Final = "writ login --url nats://HOST:4222 --creds FILE --principal NAME"
NONE: Final = "-"
"""`writ context use -` uses none: the node of the directory counts again."""

Saved = dict[str, Any]
"""`current` is a name or None; `contexts` are url, creds, tenant and principal by name."""


class _Context(msgspec.Struct, frozen=True):
    url: str
    creds: str
    tenant: str
    principal: str


class _Saved(msgspec.Struct, frozen=True):
    """The file."""

    contexts: dict[str, _Context]
    current: str | None = None


def _path(env: Mapping[str, str]) -> Path:
    home = env.get("XDG_CONFIG_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".config")
    return Path(home) / "writ" / _FILE


def read(env: Mapping[str, str]) -> Saved:
    """What is saved. Raises CommandError where the file is not what it should be."""
    path = _path(env)
    try:
        found: Saved = msgspec.to_builtins(msgspec.json.decode(path.read_bytes(), type=_Saved))
    except FileNotFoundError:
        return {"current": None, "contexts": {}}
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise CommandError(f"{path}: {error}; mend it, or delete it", [f"rm {path}"]) from None
    return found


def _write(env: Mapping[str, str], saved: Saved) -> None:
    path = _path(env)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(saved, file, indent=2)
    draft.replace(path)


def chosen(args: Namespace, env: Mapping[str, str]) -> tuple[str, dict[str, Any]] | None:
    """The context that counts: --context, else WRIT_CONTEXT, else the one in use; None where none does."""
    named = getattr(args, "context", None) or env.get("WRIT_CONTEXT")
    saved = read(env)
    name = named or saved.get("current")
    if name is None or name == NONE:
        return None
    if name not in saved["contexts"]:
        raise CommandError(f"there is no context {name!r}", ["writ context list", "writ login --save NAME"])
    return name, saved["contexts"][name]


def login(args: Namespace) -> int:
    """Makes sure of a principal, and saves it as the context that is used from then on."""
    from .reach import find

    args.context = NONE  # where to log in is said by the options, not by where one is logged in already
    place = find(args)
    if place.creds is None:
        raise UsageError("no key is given", [_EXAMPLE])
    who = asyncio.run(_whoami(args))
    name = args.save or f"{place.principal}@{place.tenant}"
    saved = read(os.environ)
    saved["contexts"][name] = {
        "url": place.url,
        "creds": str(Path(place.creds).resolve()),
        "tenant": place.tenant,
        "principal": place.principal,
    }
    saved["current"] = name
    _write(os.environ, saved)
    if args.json:
        print_json({"context": name, "principal": who})
    else:
        roles = ", ".join(f"{g.role.value} in {g.scope}" for g in who.grants) if who else ""
        print(f"logged in as {place.principal} of {place.tenant} ({roles or 'no role'}); context {name}")
        next_steps("writ whoami", "writ context use -            (back to the node of this directory)")
    _warn_of(os.environ)
    return 0


def _warn_of(env: Mapping[str, str]) -> None:
    """Says what in the shell goes before the context that was just taken into use."""
    names = [name for name in ("NATS_URL", "WRIT_CONTEXT") if env.get(name)]
    if names:
        also = [name for name in ("NATS_NKEY", "NATS_CA", "WRIT_TENANT", "WRIT_PRINCIPAL") if env.get(name)]
        what = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} set in this shell"
        print(
            f"warning: {what}, and goes before the context: unset {' '.join([*names, *also])}",
            file=sys.stderr,
        )


async def _whoami(args: Namespace) -> Any:
    from .reach import connected

    async with connected(args) as client:
        return await client.whoami()


def context(args: Namespace) -> int:
    """Lists contexts, uses one, or forgets one."""
    saved = read(os.environ)
    if args.verb == "list":
        return _list(args, saved)
    if args.name != NONE and args.name not in saved["contexts"]:
        raise CommandError(f"there is no context {args.name!r}", ["writ context list"])
    if args.verb == "use":
        saved["current"] = None if args.name == NONE else args.name
    else:
        saved["contexts"].pop(args.name, None)
        saved["current"] = None if saved["current"] == args.name else saved["current"]
    _write(os.environ, saved)
    if args.json:
        print_json(saved)
    else:
        print(f"in use: {saved['current'] or 'none'}")
    if args.verb == "use":
        _warn_of(os.environ)
    return 0


def _list(args: Namespace, saved: Saved) -> int:
    if args.json:
        print_json(saved)
        return 0
    if not saved["contexts"]:
        print("no contexts")
        next_steps(_EXAMPLE)
        return 0
    table = Table(["", "context", "tenant", "principal", "url"], ["context"])
    for name, each in sorted(saved["contexts"].items()):
        mark = "*" if name == saved["current"] else ""
        table.add(mark, name, each["tenant"], each["principal"], each["url"])
    table.print()
    return 0
