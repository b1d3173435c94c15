"""`writ publish`, `writ release` and `writ gate`: from a folder to what production runs, and why."""

from __future__ import annotations

import asyncio
import re
import tomllib
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .output import Table, count, next_steps, paint, print_json, when
from .projects import project_in
from .reach import connected, find
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from writ.broker.client import Client
    from writ.broker.jwt import Signer
    from writ.schemas.canaries import CanaryPolicy
    from writ.schemas.gates import GateSpec
    from writ.schemas.processes import Process, Release
    from writ.schemas.releasing import Promoted

_SHORT = 12
_RELEASE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*@(live|candidate|previous|\d+\.\d+\.\d+|[0-9a-f]{64})")


# --- publish --------------------------------------------------------------------------------------------


def publish(args: Namespace) -> int:
    """Builds the package of a folder, puts it into the store, and makes it a release."""
    from writ.packages import BuildError, ProjectError, open_package

    folder = Path(args.folder)
    project = project_in(folder)
    signer = _signer(args)
    try:
        content = _built(folder, project.version, args.part, signer)
    except (BuildError, ProjectError) as error:
        raise CommandError(str(error)) from error
    package = open_package(content)
    if args.out is not None:
        Path(args.out).write_bytes(content)
    position = asyncio.run(_publish(args, content))
    manifest = package.manifest
    if args.json:
        print_json(
            {
                "process": manifest.name,
                "version": manifest.version,
                "digest": package.digest,
                "size_bytes": len(content),
                "commit": manifest.commit,
                "modified": manifest.modified,
                "position": position,
            }
        )
        return 0
    changed = ", with changes" if manifest.modified else ""
    commit = f"commit {manifest.commit[:_SHORT]}{changed}" if manifest.commit else "no commit"
    print(f"{manifest.name} {manifest.version} is release {package.digest}")
    print(paint(f"{count(len(package.files), 'file')}, {len(content):,} bytes, {commit}", "dim"))
    next_steps(f"writ release promote {manifest.name}@{manifest.version} --reason R")
    return 0


def _built(folder: Path, version: str, part: str | None, signer: Signer) -> bytes:
    """The package, at a higher version where a `part` of it is to be raised. Raises BuildError, ProjectError.

    Where there is no package the version is put back, so that the next try raises it no further.
    """
    from writ.packages import BuildError, ProjectError, build
    from writ.packages.project import raised, write_version

    if part is not None:
        write_version(folder, raised(version, part))
    try:
        return build(folder, signer.public, signer.sign)
    except (BuildError, ProjectError):
        if part is not None:
            write_version(folder, version)
        raise


def _signer(args: Namespace) -> Signer:
    """The key of the principal that publishes. Raises CommandError."""
    from writ.broker.jwt import signer_in

    place = find(args)
    if place.creds is None:
        raise CommandError(
            "a package is signed with the key of who publishes it", ["writ publish --creds FILE"]
        )
    try:
        return signer_in(Path(place.creds).read_text("ascii").strip())
    except (OSError, ValueError) as error:
        raise CommandError(f"{place.creds} is no NKey seed to sign with: {error}") from error


async def _publish(args: Namespace, content: bytes) -> int:
    from writ.packages import open_package

    package = open_package(content)
    manifest = package.manifest
    async with connected(args) as client:
        await client.keep_package(package.digest, content)
        return await client.publish_release(
            manifest.name,
            manifest.version,
            package.digest,
            size_bytes=len(content),
            key=package.key,
            kind=manifest.kind.value,
            commit=manifest.commit,
            modified=manifest.modified,
        )


# --- release --------------------------------------------------------------------------------------------


def release(args: Namespace) -> int:
    """What is asked of releases."""
    verbs = {
        "list": _list,
        "show": _show,
        "status": _status,
        "fetch": _fetch,
        "promote": _promote,
        "approve-promotion": _approve_promotion,
        "canary": _canary,
    }
    return asyncio.run(verbs.get(args.verb, _changed)(args))


def _named(text: str) -> tuple[str, str | None]:
    """`NAME@REF`, or `NAME`."""
    name, at, ref = text.partition("@")
    if not name or (at and not ref):
        raise UsageError(f"{text!r} is no release: NAME@REF, with a version, digest or alias", [])
    return name, ref or None


def names_release(text: str) -> bool:
    """Whether a text is NAME@REF, with a version, a digest or an alias."""
    return _RELEASE.fullmatch(text) is not None


def named_release(text: str) -> tuple[str, str]:
    """`NAME@REF` taken apart. Raises UsageError where one of them is missing."""
    name, ref = _named(text)
    if ref is None:
        raise UsageError(f"which release of {name}?", [f"writ release list {name}"])
    return name, ref


def _of(args: Namespace) -> tuple[str, str]:
    return named_release(args.release)


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        found = await client.processes(args.process)
        canaries = await client.canaries(args.process)
    if args.json:
        print_json(
            [
                {**msgspec.to_builtins(each), "found": [c for c in canaries if c.process == each.name]}
                for each in found
            ]
        )
        return 0
    if not found:
        print("no releases")
        next_steps("writ init NAME --type job", "writ publish")
        return 0
    from writ.orchestrator.decide.canary import in_words

    rows = Table(["release", "digest", "published", "by", "aliases", "stands"])
    for process in found:
        for each in sorted(process.releases.values(), key=lambda each: -each.seq):
            aliases = ", ".join(aliases_of(process, each.digest)) or "-"
            rows.add(
                f"{process.name}@{each.version}",
                (each.digest[:_SHORT], "dim"),
                (when(_time(each.published_at)), "dim"),
                each.published_by,
                aliases,
                standing_of(process, each),
            )
    rows.print()
    for told in canaries:
        print(f"canary of {told.process} in {told.scope}: {in_words(told)}")
    return 0


def _time(at: int) -> str:
    from writ.projections.shown import timestamp

    return timestamp(at)


def aliases_of(process: Process, digest: str) -> list[str]:
    """The aliases that point at a release, with the scope where it is not the whole tenant."""
    found = [
        each.alias.value if each.scope == "*" else f"{each.alias.value} in {each.scope}"
        for each in process.pointers
        if each.digest == digest
    ]
    return found + [
        f"canary of {each.percent:g} % in {each.scope}" + (f", {each.judged.value}" if each.judged else "")
        for each in process.canaries
        if each.digest == digest
    ]


def standing_of(process: Process, release: Release) -> str:
    """Whether leases are given for a release: may run, frozen or revoked."""
    if release.revoked is not None:
        return "revoked"
    return "frozen" if release.frozen is not None or process.frozen is not None else "may run"


async def _show(args: Namespace) -> int:
    """One release with its whole history and why: from the log."""
    name, ref = _of(args)
    async with connected(args) as client:
        found = await found_release(client, name, ref)
        history = await history_of(client, name, found.digest)
    if args.json:
        print_json({"process": name, "release": found, "history": history})
        return 0
    print(f"{paint(f'{name}@{found.version}', 'bold')}  {found.digest}")
    print(f"published {when(_time(found.published_at))} by {found.published_by}, signed by {found.key}")
    changed = ", with changes" if found.modified else ""
    print(f"commit {found.commit or 'none'}{changed}, {found.size_bytes:,} bytes")
    for line in history_lines(history):
        print(line)
    return 0


async def found_release(client: Client, name: str, ref: str) -> Release:
    """A release as the log knows it. Raises CommandError where there is none."""
    from writ.broker.errors import Refused

    try:
        process = await client.process(name)
    except Refused as error:
        raise CommandError(str(error), ["writ release list"]) from error
    found = process.find(ref)
    if found is None:
        raise CommandError(f"{name} has no release {ref}", [f"writ release list {name}"])
    return found


async def history_of(client: Client, name: str, digest: str) -> list[dict[str, Any]]:
    """The records of a process that are about a release, oldest first, and what each says."""
    from writ.orchestrator.replay.releasing import about, check_lines, release_words
    from writ.schemas.codec import decode
    from writ.schemas.events import type_names
    from writ.schemas.queries import LogQuery, RecordsPage

    found: list[dict[str, Any]] = []
    after = 0
    while True:
        page = await client.ask(LogQuery(kind="process", queue=name, after=after, limit=500))
        assert isinstance(page, RecordsPage)
        for view in page.records:
            record, after = decode(bytes(view.record)), view.seq
            found += [
                {
                    "seq": record.seq,
                    "at": _time(record.at),
                    "event": type_names[type(event)],
                    "says": release_words(event, record.actor),
                    "checks": list(check_lines(getattr(event, "checks", ()))),
                }
                for event in record.events
                if about(event, digest)
            ]
        if not page.more:
            return found


def history_lines(history: list[dict[str, Any]]) -> list[str]:
    """The history of a release for people: an event a line, and the checks of its gates below."""
    lines: list[str] = []
    for each in history:
        place = paint(f"{'#' + str(each['seq']):>8}", "dim")
        lines.append(f"{place}  {each['at']}  {each['event']:<20}  {each['says']}")
        lines += [f"{'':>10}  {line}" for line in each["checks"]]
    return lines


async def _status(args: Namespace) -> int:
    """What the gates say now; nothing is recorded."""
    from writ.evaluation.badge import badge
    from writ.evaluation.run import exit_code
    from writ.orchestrator.replay.releasing import check_lines

    name, ref = _of(args)
    async with connected(args) as client:
        told = await client.check_gates(name, ref, scope=args.scope, alias=args.alias)
    if args.badge is not None:
        await asyncio.to_thread(Path(args.badge).write_bytes, badge(told))
    if args.json:
        print_json(told)
    else:
        for line in check_lines(told.checks):
            print(line)
        aliases = f", {' and '.join(told.aliases)}" if told.aliases else ""
        print(f"{name}@{told.version}{aliases} in {told.scope}: {told.outcome.value}")
    return exit_code(told.outcome)


async def _fetch(args: Namespace) -> int:
    """The package of a release, checked against what the log says of it, and unpacked."""
    from writ.packages import PackageError, open_package

    name, ref = _of(args)
    async with connected(args) as client:
        found = await found_release(client, name, ref)
        content = await client.package(found.digest)
    try:
        package = open_package(content, digest=found.digest, trusted=[found.key])
        package.unpack(Path(args.to))
    except PackageError as error:
        raise CommandError(f"the package of {name}@{found.version} is refused: {error}") from error
    except OSError as error:
        raise CommandError(f"{args.to}: {error.strerror}; give a folder that does not exist") from error
    if args.json:
        print_json({"digest": found.digest, "folder": args.to, "files": sorted(package.files)})
    else:
        print(f"{args.to} holds {count(len(package.files), 'file')} of release {found.digest}")
    return 0


# --- changes --------------------------------------------------------------------------------------------


async def _promote(args: Namespace) -> int:
    """Exits 1 where the gates say no."""
    name, ref = _of(args)
    async with connected(args) as client:
        promoting = client.promote_release(
            name, ref, args.reason, alias=args.alias, scope=args.scope, override=args.override
        )
        answer = await _asked(promoting, f"writ release status {name}@{ref} --scope '{args.scope}'")
    return _told(args, answer, f"{args.alias} of {name} in {args.scope} is {ref}", name)


async def _approve_promotion(args: Namespace) -> int:
    name, ref = _of(args)
    if not ref.isdigit():
        raise UsageError(f"{ref!r} is no number of a proposal", [f"writ release approve-promotion {name}@1"])
    async with connected(args) as client:
        approving = client.approve_promotion(name, int(ref), args.reason, scope=args.scope)
        answer = await _asked(approving, f"writ release list {name}")
    return _told(args, answer, f"promotion {ref} of {name} is done", name)


async def _canary(args: Namespace) -> int:
    name, ref = _named(args.release)
    async with connected(args) as client:
        if args.end:
            await client.end_canary(name, args.reason, scope=args.scope)
            return _said(args, f"no canary of {name} in {args.scope}")
        if ref is None:
            raise UsageError(f"which release of {name}?", [f"writ release canary {name}@1.0.0 --percent 10"])
        keys: list[str] = args.key or []
        starting = client.start_canary(
            *(name, ref, args.reason),
            percent=args.percent,
            keys=keys,
            scope=args.scope,
            policy=_canary_policy(args),
        )
        answer = await _asked(starting, f"writ release show {name}@{ref}")
    some = f"{args.percent:g} %" + (f" and {count(len(keys), 'fairness key')}" if keys else "")
    judged = "" if args.judge is None else f", judged by their {args.judge}"
    return _told(args, answer, f"{some} of live of {name} in {args.scope} get {ref}{judged}", name)


def _canary_policy(args: Namespace) -> CanaryPolicy | None:
    """How a canary is to be judged; None where nobody asked for it. Raises UsageError."""
    from writ.schemas.canaries import CanaryPolicy

    if args.judge is None:
        return None
    names = ("level", "detect", "tolerate", "minimum", "on_worse", "on_fine")
    try:
        return msgspec.convert({"measure": args.judge, **{n: getattr(args, n) for n in names}}, CanaryPolicy)
    except msgspec.ValidationError as error:
        raise UsageError(f"the canary cannot be judged so: {error}", []) from error


async def _asked(asking: Awaitable[Promoted], look: str) -> Promoted:
    """The answer; what is refused is said with what to `look` at."""
    from writ.broker.errors import Refused

    try:
        return await asking
    except Refused as error:
        raise CommandError(str(error), [look]) from error


def _told(args: Namespace, answer: Promoted, done: str, name: str) -> int:
    from writ.orchestrator.replay.releasing import check_lines

    if args.json:
        print_json(answer)
        return 0
    for line in check_lines(answer.checks):
        print(line)
    if answer.proposal is None:
        print(done)
    else:
        print(f"the gates say no; promotion {answer.proposal} of {name} waits for another person")
        scope = "" if args.scope == "*" else f" --scope '{args.scope}'"
        next_steps(f"writ release approve-promotion {name}@{answer.proposal} --reason R{scope}")
    return 0


def _said(args: Namespace, words: str) -> int:
    if args.json:
        print_json({"done": words})
    else:
        print(words)
    return 0


async def _changed(args: Namespace) -> int:
    """The changes that are answered with a position alone."""
    name, ref = _named(args.release)
    reason = args.reason
    async with connected(args) as client:
        match args.verb:
            case "rollback":
                await client.rollback_release(name, reason, to=ref, scope=args.scope, pinned=args.pinned)
                words = f"live of {name} in {args.scope} is {ref or 'what it was before'}"
            case "freeze":
                await client.freeze_release(name, ref, reason)
                words = f"no lease for {args.release}"
            case "unfreeze":
                await client.unfreeze_release(name, ref, reason)
                words = f"leases for {args.release} again"
            case "revoke":
                await client.revoke_release(*_of(args), reason)
                words = f"no lease for {args.release} ever again"
            case "approve":
                await client.approve_release(*_of(args), reason, scope=args.scope)
                words = f"you said yes to {args.release} in {args.scope}"
            case _:
                await client.record_drill(*_of(args), args.drill, args.outcome, reason)
                words = f"drill {args.drill} of {args.release}: {args.outcome}"
    return _said(args, words)


# --- gates ----------------------------------------------------------------------------------------------


def gate(args: Namespace) -> int:
    """Gates: listed, declared from a file, removed."""
    if args.verb == "apply":
        return asyncio.run(_apply_gates(args, _gates_in(Path(args.file))))
    return asyncio.run({"list": _gates, "remove": _remove_gate}[args.verb](args))


async def _gates(args: Namespace) -> int:
    async with connected(args) as client:
        found = await client.gates()
    if args.json:
        print_json(found)
        return 0
    if not found:
        print("no gates")
        next_steps("writ gate apply gates.toml")
        return 0
    rows = Table(["gate", "version", "process", "scope", "asks for"], right=["version"])
    for name, each in sorted(found.items()):
        spec = each.spec
        assert spec is not None
        asks = [f"evaluation {data}" for data in spec.evaluations]
        asks += [f"policy {policy}" for policy in spec.policies]
        asks += [f"drill {drill}" for drill in spec.drills]
        if spec.approvals is not None:
            asks.append(f"{spec.approvals.count} x {spec.approvals.role.value}")
        if spec.freeze_windows:
            asks.append(count(len(spec.freeze_windows), "freeze window"))
        rows.add(name, str(each.version), spec.process, spec.scope, ", ".join(asks) or "nothing")
    rows.print()
    return 0


def _gates_in(path: Path) -> dict[str, GateSpec]:
    """The tables `[gates.NAME]` of a file. Raises CommandError."""
    from writ.schemas.gates import GateSpec

    try:
        found: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        if set(found) != {"gates"}:
            raise CommandError(f"{path} must hold tables [gates.NAME], and nothing else")
        return msgspec.convert(found["gates"], dict[str, GateSpec])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error


async def _apply_gates(args: Namespace, given: dict[str, GateSpec]) -> int:
    async with connected(args) as client:
        for name, spec in given.items():
            await client.declare_gate(name, spec, args.reason)
    return _said(args, f"{count(len(given), 'gate')} of {args.file} hold")


async def _remove_gate(args: Namespace) -> int:
    async with connected(args) as client:
        await client.remove_gate(args.name, args.reason)
    return _said(args, f"gate {args.name} is ended")
