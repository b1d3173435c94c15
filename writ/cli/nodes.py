"""`writ up`, `down` and `status`: the node on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .brokers import join_of
from .options import OFF
from .output import Table, count, dollars, fields, next_steps, on_terminal, paint, print_json, state
from .processes import log_to_stderr, new_loop, tail, when_stdin_ends, writ_command
from .reach import connected, directory_of, find, node_info, with_dir
from .usage import UNREACHABLE, CommandError, UsageError
from .views import table

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.broker.tls import TlsFiles
    from writ.joining import Join
    from writ.node import Node
    from writ.schemas.queries import Durability, NodeStatus

READY_TIMEOUT_S: Final = 60.0
DOWN_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.02
_PATIENCE_S: Final = 15.0
_TLS_FILES: Final = 3
_TLS_MEMORY: Final = "tls.json"
"""In the directory of a node that speaks TLS: the files that were given, none where it made its own."""


# --- up -------------------------------------------------------------------------------------------------


def up(args: Namespace) -> int:
    """Runs a node, here or in the background."""
    if args.checkpoints:
        from .audits import places_of

        places_of(args.checkpoints)
    if args.detach:
        return _detach(args)
    log_to_stderr()
    with asyncio.Runner(loop_factory=new_loop()) as runner:
        return runner.run(_serve(args))


async def _serve(args: Namespace) -> int:
    """The node in this process, until a signal or until a part of it fails."""
    from writ.views.keeper import Views

    directory = directory_of(args)
    tls = _certificates(args, directory)
    http = None
    if args.http_port != OFF:
        from writ.http.keeper import Http

        http = Http(directory, args.http_port, args.http_origin, _oidc(args))
    views = Views(directory)
    await views.spawn()  # first, so that it loads its modules while this process loads the node's

    from writ.node import AuditCopies, Node
    from writ.orchestrator.garbage import keep_small

    asked = asyncio.Event()
    _stop_on_signals(asked)
    if args.until_stdin_ends:
        when_stdin_ends(_PATIENCE_S)
    stopping = asyncio.create_task(asked.wait())
    collecting = asyncio.create_task(keep_small())  # here, as it is of the whole process and not of the node
    starting = asyncio.create_task(
        Node.start(
            directory,
            args.port,
            views=views,
            http=http,
            metrics_port=args.metrics_port,
            metrics_host=args.metrics_host,
            search=args.search,
            audit=AuditCopies(tuple(args.checkpoints), args.audit_mirror),
            host=args.host,
            tls=tls,
            login_life_s=args.login_life,
            live_max=args.live_max,
            reads=args.records,
            join=_join(args),
            scrub_every_s=args.scrub_every * 3_600,
            disk_reserve_bytes=round(args.disk_reserve * 1e6),
            partitions=args.partitions,
        )
    )
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return 0
    node = starting.result()
    try:
        if not args.quiet:
            _announce(args, detached=False)
        return await _until_stopped(node, stopping)
    finally:
        if on_terminal() and not args.json and not args.quiet:
            print("\nstopping", flush=True)
        collecting.cancel()
        await node.stop()


def _join(args: Namespace) -> Join | None:
    """The broker to join, where one is given. Raises UsageError for what goes with a broker of our own."""
    own = ("port", "tls", "tls_cert", "tls_key", "tls_ca")
    join = join_of(args)
    for name in own if join is not None else ():
        if getattr(args, name):
            option = name.replace("_", "-")
            raise UsageError(
                f"--{option} is for a broker that the node starts, and --broker-url names another"
            )
    return join


def _oidc(args: Namespace) -> Path | None:
    """The file about an OpenID provider, once it has been read. Raises UsageError."""
    if args.oidc is None:
        return None
    try:
        from writ.http.oidc import OidcFault, provider_of, read_settings
    except ImportError as error:
        raise UsageError(f"--oidc wants {error.name}: pip install 'writ-orchestrator[oidc]'") from error
    path = Path(args.oidc)
    try:
        provider_of(path, read_settings(path))
    except ImportError as error:
        raise UsageError(f"--oidc wants {error.name}: pip install 'writ-orchestrator[oidc]'") from error
    except OidcFault as fault:
        raise UsageError(f"--oidc: {fault}") from fault
    return path


def _certificates(args: Namespace, directory: Path) -> TlsFiles | None:
    """What the broker shows of itself: files of the user's, our own, or what it showed the last time.

    Raises UsageError.
    """
    wanted = _wanted_tls(args, directory)
    memory = directory / _TLS_MEMORY
    if wanted is None:
        if not _is_loopback(args.host):
            raise UsageError(
                f"--host {args.host} can be reached from other machines: add --tls, or give --tls-cert, "
                "--tls-key and --tls-ca"
            )
        memory.unlink(missing_ok=True)
        return None
    from writ.broker.owned import write
    from writ.broker.tls import TlsError, TlsFiles, own_files

    try:
        if wanted:
            files = TlsFiles(*[Path(each).absolute() for each in wanted])
            files.check()
        else:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = [] if args.host in ("0.0.0.0", "::") else [args.host]  # noqa: S104 - told apart, not bound
            files = own_files(directory.absolute(), names, datetime.datetime.now(datetime.UTC))
    except TlsError as error:
        raise CommandError(str(error), []) from error
    if directory.is_dir():
        write(memory, json.dumps([str(Path(each).absolute()) for each in wanted]))
    return files


def _wanted_tls(args: Namespace, directory: Path) -> list[str] | None:
    """The user's certificate, key and authority; none of them for our own, and None for no TLS.

    Without a word of it a node speaks as it did at its last start: who has its authority goes on using it.
    """
    given = [each for each in (args.tls_cert, args.tls_key, args.tls_ca) if each]
    if args.no_tls:
        if args.tls or given:
            raise UsageError("--no-tls goes with no other option of TLS; leave it, or them, out")
        return None
    if given and len(given) < _TLS_FILES:
        raise UsageError("--tls-cert, --tls-key and --tls-ca belong together; give all three")
    if args.tls or given:
        return given
    try:
        return [str(each) for each in json.loads((directory / _TLS_MEMORY).read_bytes())]
    except (OSError, ValueError, TypeError):
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _until_stopped(node: Node, stopping: asyncio.Task[Any]) -> int:
    running = asyncio.create_task(node.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        running.cancel()
        return 0
    error = running.exception()
    why = f"{type(error).__name__}: {error}" if error else "a part of it ended by itself"
    raise CommandError(f"the node cannot go on: {why}", ["writ up            (its data are kept)"])


def _stop_on_signals(asked: asyncio.Event) -> None:
    """The first signal asks to stop, a second one ends at once: what was acknowledged is on disk anyway."""

    def stop() -> None:
        if asked.is_set():
            os._exit(1)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)


def _announce(args: Namespace, *, detached: bool) -> None:
    directory = directory_of(args)
    info = node_info(directory) or {}
    if args.json:
        print_json({**info, "directory": str(directory.resolve())})
        sys.stdout.flush()
        return
    print(f"{paint('Writ is up', 'bold green')} (version {info.get('version', '?')})\n")
    fields(
        [
            ("  broker", str(info.get("url", ""))),
            ("  http", str(info.get("http_url") or "")),
            ("  directory", str(directory)),
            ("  principal", f"{info.get('principal')} in tenant {info.get('tenant')}"),
            ("  process", str(info.get("pid", ""))),
        ]
    )
    where = "" if detached else ", in another terminal"
    print(f"\n{paint(f'Next{where}:', 'bold')}")
    for line in (
        with_dir("writ worker MODULE --queue greetings", directory),
        with_dir('writ submit greetings hello \'{"name": "world"}\' --wait', directory),
        with_dir("writ jobs", directory),
    ):
        print(f"  {line}")
    how = with_dir("writ down", directory)
    print(f"\nStop it with {'' if detached else 'Ctrl-C or '}`{how}`.", flush=True)


def _detach(args: Namespace) -> int:
    """The node as a process of its own session; returns when it is ready."""
    directory = directory_of(args)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = (directory / "node.log").open("ab")
    except OSError as error:
        raise CommandError(f"directory {directory}: {error.strerror}", ["writ up --dir ANOTHER"]) from error
    offset = log.tell()
    _certificates(args, directory)  # what is wrong with them is told here, and not in a log
    _oidc(args)
    _join(args)
    names = (
        "oidc",
        "http_origin",
        "port",
        "http_port",
        "metrics_port",
        "metrics_host",
        "host",
        "login_life",
        "live_max",
        "records",
        "disk_reserve",
        "scrub_every",
        "tls_cert",
        "tls_key",
        "tls_ca",
        "broker_url",
        "replicas",
        "partitions",
    )
    told = [(f"--{name.replace('_', '-')}", getattr(args, name)) for name in names]
    given = [word for name, value in told if value is not None for word in (name, str(value))]
    flags = ("tls", "no_tls", "search", "audit_mirror")
    given += [f"--{name.replace('_', '-')}" for name in flags if getattr(args, name)]
    given += [word for place in args.checkpoints for word in ("--checkpoints", place)]
    given += [word for tag in args.placement for word in ("--placement", tag)]
    command = writ_command("up", "--quiet", "--dir", str(directory), *given)
    with log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + READY_TIMEOUT_S
        while (node_info(directory) or {}).get("pid") != child.pid:
            if child.poll() is not None:
                said = tail(directory / "node.log", offset)
                raise CommandError(f"the node did not start:\n{said}")
            if time.monotonic() > until:
                said = tail(directory / "node.log", offset)
                raise CommandError(f"the node was not ready after {READY_TIMEOUT_S:g} s:\n{said}")
            time.sleep(_POLL_S)
    except BaseException:
        _end(child)
        raise
    if not args.quiet:
        _announce(args, detached=True)
    return 0


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(DOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# --- down -----------------------------------------------------------------------------------------------


def down(args: Namespace) -> int:
    """Stops the node of the directory, and waits until it is gone. None running is fine."""
    from writ.broker.owned import owner_pid

    directory = directory_of(args)
    pid = owner_pid(directory)
    if pid is not None:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise CommandError(f"the node of {directory} (process {pid}) belongs to another user") from error
        until = time.monotonic() + DOWN_TIMEOUT_S
        while owner_pid(directory) == pid or _lives(pid):
            if time.monotonic() > until:
                raise CommandError(
                    f"the node of {directory} (process {pid}) has not ended within {DOWN_TIMEOUT_S:g} s",
                    [f"kill -9 {pid}            (loses nothing: what was acknowledged is on disk)"],
                )
            time.sleep(_POLL_S)
    if args.json:
        print_json({"directory": str(directory.resolve()), "stopped": pid})
    else:
        print(f"no node runs in {directory}" if pid is None else f"stopped the node of {directory}")
    return 0


def _lives(pid: int) -> bool:
    """Whether the process is there and not merely waiting for its parent to notice that it ended."""
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


# --- status ---------------------------------------------------------------------------------------------


def status(args: Namespace) -> int:
    """Exits 1 where something is wrong with a node that answers."""
    found = asyncio.run(_status(args))
    wrong = found.faults()
    if args.json:
        print_json(found)
    else:
        _show_status(args, found, wrong)
    return 1 if wrong else 0


async def _status(args: Namespace) -> NodeStatus:
    from writ.broker.errors import WireError

    until = time.monotonic() + (args.wait or 0)
    while True:
        left = until - time.monotonic()
        try:
            async with connected(args) as client:
                found = await client.status(timeout_s=max(left, 3.0))
                found = await _with_budget(client, found)
            if not found.faults() or left <= 0:
                return found
        except CommandError as error:
            if error.code != UNREACHABLE or left <= 0:
                raise
        except WireError:
            if left <= 0:
                raise
        await asyncio.sleep(0.1)


async def _with_budget(client: Client, found: NodeStatus) -> NodeStatus:
    """The status, with a warning where the tenant's budget lets nothing start any more."""
    from msgspec.structs import replace

    from .fetch import standing_of, tenant_seen

    told = await tenant_seen(client)
    budget = None if told is None else told.quotas.budget
    if told is None or budget is None:
        return found
    left = standing_of(told).left_microusd(time.time_ns() // 1_000) or 0
    if left >= budget.reserve_microusd:
        return found
    words = f"of the tenant's budget {dollars(max(left, 0))} are left: nothing starts, see `writ tenant show`"
    return replace(found, warnings=(*found.warnings, words))


def _versions(found: Durability) -> str:
    """Which version of records is written, and who does not read the newest: for a rolling upgrade."""
    newest = max(found.reads.values(), default=1)
    behind = sorted(name for name, reads in found.reads.items() if reads < newest)
    words = [f"version {found.written}" if found.written else "unknown"]
    if behind:
        words.append(f"version {newest} is not read by {', '.join(behind)}")
    elif newest > found.written > 0:
        words.append(f"all read version {newest}: `writ upgrade` has it written")
    return "; ".join(words)


def _show_durability(found: Durability, leaders: Collection[str | None]) -> None:
    standbys = [name for name in found.orchestrators if name not in leaders]
    tags = f", on servers with {', '.join(found.placement)}" if found.placement else ""
    print()
    fields(
        [
            ("servers", f"{len(found.answering)} of {found.servers} answer: {', '.join(found.answering)}"),
            ("replicas", f"{found.replicas}, of which {found.current} have all of the log{tags}"),
            ("synced", found.sync),
            ("mirror", "none" if found.mirror_lag is None else f"{found.mirror_lag} records behind"),
            ("standbys", ", ".join(standbys) or "none"),
            ("records", _versions(found)),
        ]
    )


def _show_status(args: Namespace, found: NodeStatus, wrong: list[str]) -> None:
    place = find(args)
    word = paint("not well", "bold red") if wrong else paint("up", "bold green")
    web = f", HTTP at {place.http_url}" if place.http_url else ""
    print(f"Writ {found.version} at {place.url}{web} is {word}\n")
    partitions = Table(
        ["partition", "leader", "epoch", "records"], elastic=["leader"], right=["epoch", "records"]
    )
    for each in found.partitions:
        partitions.add(
            str(each.partition), each.leader or ("none", "red"), str(each.epoch), f"{each.last_seq}"
        )
    partitions.print()
    if found.durability is not None:
        _show_durability(found.durability, {each.leader for each in found.partitions})
    print()
    table(found.views).print()
    total = sum(found.jobs.values())
    counted = not any(view.away for view in found.views if view.name == "jobs")
    parts = ", ".join(f"{number:,} {state(name)}" for name, number in found.jobs.items() if number)
    print(f"\n{count(total, 'job')}{': ' if parts else ''}{parts}" if counted else "")
    for line in [*wrong, *found.warnings]:
        print(f"{paint('warning', 'yellow')}  {line}")
    if counted and not total:
        next_steps("writ submit QUEUE TASK INPUT")
