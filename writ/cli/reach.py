"""Where to connect: flags, else the environment, else the context in use, else a node on this machine."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .contexts import chosen
from .options import DEFAULT_DIRECTORY
from .usage import UNREACHABLE, CommandError, UsageError

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.broker.connect import Target
    from writ.broker.hardened import HardenedClient

NODE_FILE = "node.json"


@dataclass(frozen=True)
class Place:
    """A broker, who we are to it, and where that was found.

    Of a node on this machine also where its HTTP API is, and the file with the token that it wants.
    """

    url: str
    creds: str | None
    tenant: str
    principal: str
    source: str
    http_url: str | None = None
    token_path: str | None = None


def directory_of(args: Namespace) -> Path:
    """The directory of the node on this machine."""
    return Path(args.dir or DEFAULT_DIRECTORY)


def with_dir(command: str, directory: Path) -> str:
    """A command for the reader to type, with --dir where it is not the usual one."""
    usual = directory == Path(DEFAULT_DIRECTORY)
    return command if usual else f"{command} --dir {directory}"


def find(args: Namespace, env: Mapping[str, str] | None = None) -> Place:
    """Where to connect. A directory named on the command line goes before the environment.

    Raises CommandError where nothing says it.
    """
    env = os.environ if env is None else env
    if args.url:
        place = _from_env(env, args.url, "--url")
        # A key belongs to a broker: the node's own one is right where the url is the node's.
        known = _from_node(directory_of(args))
        if known is not None and known.url == args.url and not env.get("NATS_NKEY"):
            place = replace(known, source="--url")
    elif getattr(args, "context", None) is None and args.dir is None and env.get("NATS_URL"):
        place = _from_env(env, env["NATS_URL"], "NATS_URL")
    elif args.dir is None and (saved := chosen(args, env)) is not None:
        name, said = saved
        place = Place(said["url"], said["creds"], said["tenant"], said["principal"], f"context {name}")
    else:
        found = _from_node(directory_of(args))
        if found is None:
            where = directory_of(args)
            raise CommandError(f"no node runs in {where}", [with_dir("writ up", where)], UNREACHABLE)
        place = found
    return replace(
        place,
        creds=args.creds or place.creds,
        tenant=args.tenant or place.tenant,
        principal=args.principal or place.principal,
    )


def _from_env(env: Mapping[str, str], url: str, source: str) -> Place:
    return Place(
        url=url,
        creds=env.get("NATS_NKEY") or None,
        tenant=env.get("WRIT_TENANT") or "default",
        principal=env.get("WRIT_PRINCIPAL") or "owner",
        source=source,
    )


def node_info(directory: Path) -> dict[str, str | int | None] | None:
    """What a node that runs in the directory wrote down of itself; None where none does."""
    try:
        info: dict[str, str | int | None] = json.loads((directory / NODE_FILE).read_bytes())
        pid = int(str(info["pid"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        return info  # it runs as another user
    except (OSError, OverflowError):
        return None  # it ended without clearing up
    return info


def _from_node(directory: Path) -> Place | None:
    info = node_info(directory)
    if info is None or not all(info.get(name) for name in ("url", "key_path", "tenant", "principal")):
        return None
    return Place(
        url=str(info["url"]),
        creds=str(info["key_path"]),
        tenant=str(info["tenant"]),
        principal=str(info["principal"]),
        source=str(directory),
        http_url=_text(info.get("http_url")),
        token_path=_text(info.get("token_path")),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def target_of(place: Place) -> Target:
    """The same for the client. Raises CommandError for names that cannot be."""
    from writ.broker.connect import Target

    try:
        key = Path(place.creds) if place.creds else None
        ca = Path(os.environ["NATS_CA"]) if os.environ.get("NATS_CA") else None
        return Target(place.url, key, place.tenant, place.principal, ca)
    except ValueError as error:
        raise CommandError(str(error), ["writ env"], 2) from error


def _check_names(args: Namespace) -> None:
    """Raises UsageError for names that nothing can have."""
    from writ.schemas.ids import queue_fault, token_fault

    names = [(getattr(args, what, None), what) for what in ("queue", "id", "name", "batch")]
    names += [(each, "id") for each in getattr(args, "ids", ())]
    for value, what in names:
        if not isinstance(value, str):
            continue
        fault = queue_fault(value) if what == "queue" else token_fault(value, what)
        if fault is not None:
            raise UsageError(fault)


@asynccontextmanager
async def connected(args: Namespace) -> AsyncGenerator[Client]:
    """A client of the place that the options and the environment name."""
    _check_names(args)
    place = find(args)
    from writ.broker.client import Client
    from writ.broker.errors import NotAdmitted, Unreachable

    try:
        client = await Client(target_of(place), name="writ-cli").__aenter__()
    except NotAdmitted as error:
        raise CommandError(str(error), _ways_in(place), UNREACHABLE) from error
    except Unreachable as error:
        raise CommandError(str(error).rpartition("; ")[0], _ways_out(place), UNREACHABLE) from error
    client.min_position = getattr(args, "min_position", None)
    client.partition = args.partition
    try:
        yield client
    finally:
        await client.close()


def log_target(directory: Path) -> Target:
    """Where the logs are of the node that runs in a directory, and as whom. Raises CommandError."""
    from writ.broker.connect import Target

    info = node_info(directory)
    if info is None:
        raise CommandError(f"no node runs in {directory}", [with_dir("writ up", directory)], UNREACHABLE)
    return Target(str(info["url"]), directory / "keys" / "log.creds")


@asynccontextmanager
async def logs_of(directory: Path, name: str) -> AsyncGenerator[HardenedClient]:
    """A connection, of a program of that name, to the logs of the node that runs in a directory.

    Raises CommandError where none runs or it is not reached, and for an OutcomeUnknown within.
    """
    from writ.broker.connect import connect
    from writ.broker.errors import Unreachable
    from writ.broker.ports import OutcomeUnknown

    target = log_target(directory)
    try:
        link = await connect(target, f"writ:{name}", inbox_prefix="_INBOX")
    except Unreachable as error:
        raise CommandError(str(error), [with_dir("writ status", directory)], UNREACHABLE) from error
    try:
        yield link
    except OutcomeUnknown as error:
        raise CommandError(str(error), [with_dir("writ status", directory)], UNREACHABLE) from error
    finally:
        await link.close()


def _ways_in(place: Place) -> list[str]:
    """For whom a node does not know: how to show another key, and who may make this one known."""
    from writ.broker.keys import KeyFileError, load

    key = "U..."
    if place.creds is not None:
        with suppress(KeyFileError, OSError):
            key = load(Path(place.creds)).public
    return [
        f"writ login --url {place.url} --creds FILE --principal NAME            (as somebody that is known)",
        f"writ principal add-key {place.principal} {key}            (by an admin or owner of the tenant)",
    ]


def _ways_out(place: Place) -> list[str]:
    if place.source == "NATS_URL":
        return [
            "writ up --detach",
            "unset NATS_URL            (it is set in your shell and goes before the node of ./.writ)",
        ]
    if place.source == "--url":
        return ["writ up --detach            (starts a node on this machine)"]
    if place.source.startswith("context "):
        return ["writ context use -            (the node of this directory)", "writ context list"]
    return [with_dir("writ up --detach", Path(place.source))]
