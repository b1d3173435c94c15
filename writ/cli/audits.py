"""`writ audit verify`, `prove`, `export`, `checkpoint`, `key`, `rotate` and `verifier`."""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import lists
from .output import count, paint, print_json
from .partitions import chosen, each_of
from .processes import when_stdin_ends
from .reach import connected, directory_of, log_target, logs_of, with_dir
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.broker.notary import Notary
    from writ.broker.note_places import NotePlace
    from writ.orchestrator.replay.checked import Checked
    from writ.schemas.lists import ActView
    from writ.schemas.proofs import CheckpointPage, JobProof

_NICE = 10
_PATIENCE_S = 1.0
VERIFIER = "writ_proof.py"


def audit(args: Namespace) -> int:
    """One of the subcommands; the listing without one."""
    return lists.run(args) if args.verb is None else _VERBS[args.verb](args)


# --- verify ---------------------------------------------------------------------------------------------


def _verify(args: Namespace) -> int:
    """The whole log against all that was signed of it."""
    if args.until_stdin_ends:  # the node's scrub: it may take its time, the engine's answers may not
        when_stdin_ends(_PATIENCE_S)
        os.nice(_NICE)
    directory = directory_of(args)
    trusted = None if args.key is None else _key(args.key)
    alone = bool(args.until_stdin_ends)
    checks = asyncio.run(_check(directory, args.partition, places_of(args.checkpoints), trusted, alone))
    if args.json:
        print_json(each_of(checks))
    for number, checked in () if args.json else checks.items():
        first, *rest = checked.lines()
        where = "" if len(checks) == 1 else f"partition {number}: "
        print(paint(f"{where}{first}", "bold green" if checked.ok else "bold red"))
        for line in rest:
            print(line)
    return 0 if all([checked.ok for checked in checks.values()]) else 1


def places_of(addresses: list[str]) -> list[NotePlace]:
    """What `--checkpoints` names. Raises UsageError."""
    from writ.broker.note_places import place_of

    try:
        return [place_of(address) for address in addresses]
    except ValueError as error:
        raise UsageError(f"--checkpoints: {error}") from error


async def _check(
    directory: Path, partition: int | None, copies: list[NotePlace], trusted: bytes | None, alone: bool
) -> dict[int, Checked]:
    """Reads the logs of the node that runs in the directory, or one, and what its archive has of them.

    Long ones with a process for each processor, if not alone.
    """
    from writ.broker.archive import ArchivedLog
    from writ.broker.log import JetStreamLog
    from writ.broker.notary import checkpoints_folder
    from writ.broker.note_places import NoteFolder
    from writ.orchestrator.replay.checked import check_log, signed_in

    from .verifying import LONG, stretches

    async with logs_of(directory, "audit") as link:
        try:
            checks: dict[int, Checked] = {}
            places = [NoteFolder(checkpoints_folder(directory)), *copies]
            for number in await chosen(link, partition, directory):
                log = ArchivedLog.beside(directory, await JetStreamLog.open(link, number))
                found = [signed_in(place, number, trusted) for place in places]
                last = await log.last_seq()
                if alone or last < LONG:
                    checks[number] = await check_log(log, found)
                    continue
                async with aclosing(stretches(log_target(directory), directory, number, last)) as ahead:
                    checks[number] = await check_log(log, found, ahead)
            return checks
        except OSError as error:
            raise CommandError(f"checkpoints or archive cannot be read: {error}") from error


def _key(text: str) -> bytes:
    from writ.schemas.checkpoints import NoteError, key_in

    try:
        return key_in(text)
    except NoteError as error:
        raise UsageError(f"--key: {error}") from error


# --- prove ----------------------------------------------------------------------------------------------


def _prove(args: Namespace) -> int:
    """Writes a job's records with their proofs into a file."""

    async def read() -> JobProof:
        from writ.broker.errors import Refused

        async with connected(args) as client:
            queue = args.queue or (await client.job(args.id)).queue
            try:
                return await client.prove(args.id, queue)
            except Refused as error:
                raise CommandError(str(error)) from error

    import msgspec

    proof = asyncio.run(read())
    path = Path(args.out or f"{args.id}.proof.json")
    _write(path, msgspec.json.format(msgspec.json.encode(proof)) + b"\n")
    if args.json:
        print_json(proof)
        return 0
    print(f"{count(len(proof.records), 'record')} of job {proof.id} with what proves them: {path}")
    print(f"\nCheck it anywhere, with Python alone:\n  writ audit verifier > {VERIFIER}")
    print(f'  python3 {VERIFIER} {path} --key "$(writ audit key)"')
    return 0


def _verifier(args: Namespace) -> int:
    """The program that checks proofs, on standard output."""
    from writ.orchestrator.replay import offline

    sys.stdout.write(Path(offline.__file__).read_text("utf-8"))
    return 0


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


# --- checkpoints and keys -------------------------------------------------------------------------------


def _checkpoint(args: Namespace) -> int:
    """A checkpoint of all that there is now, as a signed note for a witness."""

    async def read() -> CheckpointPage:
        from writ.broker.errors import Refused

        async with connected(args) as client:
            try:
                newest = await client.checkpoint()
                return await client.checkpoint(max(newest.size, newest.position))
            except Refused as error:
                raise CommandError(str(error)) from error

    found = asyncio.run(read())
    if args.json:
        print_json(found)
    else:
        sys.stdout.write(found.checkpoint)
    return 0


def _notary(args: Namespace) -> Notary:
    from writ.broker.clock import SystemClock
    from writ.broker.keys import KeyFileError
    from writ.broker.notary import Notary, checkpoints_folder

    directory = directory_of(args)
    if not checkpoints_folder(directory).exists():
        raise CommandError(f"nothing was signed in {directory} yet", [with_dir("writ up", directory)])
    try:
        return Notary(directory, SystemClock().wall_us())
    except KeyFileError as error:
        raise CommandError(str(error)) from error


def _show_key(args: Namespace) -> int:
    """The public key that signs now."""
    return _print_key(args, _notary(args))


def _rotate(args: Namespace) -> int:
    """Goes over to a new key."""
    from writ.broker.clock import SystemClock
    from writ.broker.keys import KeyFileError
    from writ.schemas.checkpoints import NoteError

    notary = _notary(args)
    try:
        notary.rotate(SystemClock().wall_us())
    except (OSError, KeyFileError, NoteError) as error:
        raise CommandError(f"the key was not replaced: {error}") from error
    return _print_key(args, notary)


def _print_key(args: Namespace, notary: Notary) -> int:
    newest, signed = notary.keys[-1], notary.newest(0)
    text = notary.key_text(f"writ/{notary.site}" if signed is None else str(signed[1].origin))
    if args.json:
        print_json({"key": text, "number": newest.number, "site": notary.site})
    else:
        print(text)
    return 0


# --- export ---------------------------------------------------------------------------------------------


def _export(args: Namespace) -> int:
    """The whole audit trail that matches, newest first."""
    write = _cef if args.format == "cef" else _json
    asyncio.run(_export_all(args, write))
    return 0


async def _export_all(args: Namespace, write: Callable[[ActView], str]) -> None:
    async with connected(args) as client:
        filters: dict[str, Any] = {
            name: value
            for name in ("actor", "queue", "job", "since", "until")
            if (value := getattr(args, name)) is not None
        }
        if args.verb_of is not None:
            filters["verb"] = args.verb_of
        if args.refused or args.done:
            filters["refused"] = args.refused
        async for act in _acts(client, filters):
            sys.stdout.write(write(act) + "\n")


async def _acts(client: Client, filters: dict[str, Any]) -> AsyncGenerator[ActView]:
    cursor: str | None = None
    while True:
        page = await client.audit(**filters, limit=500, cursor=cursor)
        for act in page.acts:
            yield act
        cursor = page.next
        if cursor is None:
            return


def _json(act: ActView) -> str:
    import msgspec

    return msgspec.json.encode(act).decode()


_DONE, _REFUSED = 3, 6
"""Severities of CEF, from 0 to 10."""


def _cef(act: ActView) -> str:
    """ArcSight's Common Event Format, version 0: a header, then names and values."""
    from writ import __version__

    end = "refused" if act.refused else "done"
    head = (
        "Writ",
        "writ",
        __version__,
        act.event,
        f"{act.verb} {end}",
        str(_REFUSED if act.refused else _DONE),
    )
    header = "|".join([part.replace("\\", "\\\\").replace("|", "\\|") for part in head])
    return f"CEF:0|{header}|{' '.join(_extension(act))}"


def _extension(act: ActView) -> Iterator[str]:
    from writ.schemas.checkpoints import moment

    pairs: list[tuple[str, object]] = [
        ("rt", moment(act.at) // 1_000), ("suser", act.actor), ("act", act.verb), ("externalId", act.seq),
        ("outcome", "failure" if act.refused else "success"), ("reason", act.reason),
    ]  # fmt: skip
    labelled: tuple[tuple[str, object], ...] = (
        ("tenant", act.tenant), ("aggregate", f"{act.kind} {act.key}"), ("queue", act.queue),
        ("job", act.job), ("refusal", act.refused and act.refused.value), ("field", act.field),
    )  # fmt: skip
    for number, (label, value) in enumerate(labelled, 1):
        if value is not None:
            pairs += [(f"cs{number}Label", label), (f"cs{number}", value)]
    for name, value in pairs:
        if value is not None:
            text = str(value).replace("\\", "\\\\").replace("=", "\\=")
            yield f"{name}={text}".replace("\r", "\\r").replace("\n", "\\n")


_VERBS: dict[str, Callable[[Namespace], int]] = {
    "verify": _verify,
    "prove": _prove,
    "verifier": _verifier,
    "export": _export,
    "checkpoint": _checkpoint,
    "key": _show_key,
    "rotate": _rotate,
}
