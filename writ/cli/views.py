"""`writ views`: how far each view of the log is, and building one anew."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .output import Table, count, next_steps, print_json
from .reach import connected, directory_of, node_info, with_dir
from .usage import CommandError, UsageError
from .watching import Shown, rows, watch

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.queries import ViewStatus

_POLL_S: Final = 0.1


def views(args: Namespace) -> int:
    """Lists the views, or has some built anew."""
    if args.verb == "rebuild":
        return _rebuild(args)
    return watch(args, _look) if args.watch else asyncio.run(_list(args))


async def _look(client: Client) -> Shown:
    found = (await client.status()).views
    return rows(table(found), count(len(found), "view"))


async def _list(args: Namespace) -> int:
    async with connected(args) as client:
        found = (await client.status()).views
    if args.json:
        print_json(found)
    else:
        table(found).print()
    return 0


def table(found: tuple[ViewStatus, ...]) -> Table:
    """Views with how far they are, as `writ status` shows them too."""
    shown = Table(
        ["view", "position", "behind by", "seconds", "is"], ["is"], ["position", "behind by", "seconds"]
    )
    for view in found:
        word: tuple[str, str] = ("following", "green")
        if view.restored is not None:
            word = (f"following, from its snapshot at record {view.restored}", "green")
        if view.building is not None:
            word = (f"built anew, at record {view.building}", "yellow")
        if view.away or view.halted:
            word = ("halted", "red") if view.halted else ("away", "red")
        shown.add(view.name, str(view.position), str(view.lag), f"{view.lag_s:.1f}", word)
    return shown


def _rebuild(args: Namespace) -> int:
    """Asks by files, which the process of the views looks for: it need not run, nor the broker."""
    from writ.projections import places
    from writ.projections.registry import OPTIONAL, VIEWS
    from writ.views.places import views_folder

    directory = directory_of(args)
    known = [make().name for make in VIEWS]
    optional = [make().name for make in OPTIONAL]
    folder = directory / views_folder(args.partition or 0)
    known += [name for name in optional if places.live(folder / f"{name}.db") is not None]
    names = known if args.all else list(dict.fromkeys(args.names))
    if bool(args.names) == args.all:
        raise UsageError("say which views, or --all", [f"writ views rebuild {known[0]}"])
    for name in names:
        if name not in known:
            raise CommandError(f"there is no view {name!r}; there are {', '.join(known)}")
    if not folder.is_dir():
        raise CommandError(
            f"{directory} has no {folder.name}: no node ever ran in it", [with_dir("writ up", directory)]
        )
    paths = [folder / f"{name}.db" for name in names]
    try:
        for path in paths:
            places.ask(path)
    except OSError as error:
        raise CommandError(f"cannot write in {folder}: {error.strerror}") from error
    running = node_info(directory) is not None
    if args.wait is not None and running:
        _wait(paths, args.wait, directory)
    _tell(args, names, running)
    return 0


def _wait(paths: list[Path], wait_s: float, directory: Path) -> None:
    from writ.projections import places

    until = time.monotonic() + wait_s
    while waiting := [path.stem for path in paths if places.newer(path) is not None]:
        if time.monotonic() > until:
            raise CommandError(
                f"still being built after {wait_s:g} s: {', '.join(waiting)}",
                [with_dir("writ views list", directory)],
            )
        time.sleep(_POLL_S)


def _tell(args: Namespace, names: list[str], running: bool) -> None:
    if args.json:
        print_json(names)
        return
    done = args.wait is not None and running
    for name in names:
        if done:
            print(f"view {name} was built anew")
        else:
            when = "" if running else " as soon as the node runs"
            print(f"view {name} is built anew{when}; it goes on answering meanwhile")
    if running and not done:
        next_steps(with_dir("writ views list --watch", directory_of(args)))
