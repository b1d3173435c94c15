"""Where a view lives: `jobs.db` is a link to the file that is live, `jobs.<n>.db`, `n` growing.

A file with a greater number than the live one's is being built beside it. Making such a file, empty, is how
one asks for that; the link's replacement is the moment in which it becomes the view. Whatever was killed in
between finds all there is to know in the names: a greater number goes on, lower ones are past and deleted.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_SUFFIXES = ("", "-wal", "-shm")


def live(path: Path) -> Path | None:
    """The file in which the view `path` lives, None where there is none."""
    return path.resolve() if path.exists() else None


def newer(path: Path) -> Path | None:
    """The file that is to be built beside the live one; of several the newest."""
    numbers = _numbers(path)
    newest = max(numbers, default=0)
    return _numbered(path, newest) if newest > _live_number(path) else None


def ask(path: Path) -> Path:
    """Asks for a new file beside the live one, instead of one that is being built. Raises OSError."""
    newest = _numbered(path, max([_live_number(path), *_numbers(path)]) + 1)
    newest.touch(mode=0o600, exist_ok=False)
    return newest


def enlive(path: Path, newest: Path) -> None:
    """Makes a file of `ask` the live one, in one step. Raises OSError."""
    link = path.with_suffix(".link")
    link.unlink(missing_ok=True)
    link.symlink_to(newest.name)
    link.replace(path)


def tidy(path: Path) -> None:
    """Deletes what is neither live nor the newest of those asked for. Raises OSError."""
    keep = {_live_number(path), max(_numbers(path), default=0)}
    if live(path) is None:
        keep.clear()
        path.unlink(missing_ok=True)  # a link to nothing
    for number in set(_numbers(path)) - keep:
        forget(_numbered(path, number))
    if path.is_symlink():
        forget(path, _SUFFIXES[1:])  # of a file that was there before there were links


def remove(path: Path) -> None:
    """Deletes a view, as if it had never been. Raises OSError."""
    with suppress(NotADirectoryError):  # whoever opens a view there says so
        path.unlink(missing_ok=True)
        tidy(path)


def forget(path: Path, suffixes: tuple[str, ...] = _SUFFIXES) -> None:
    """Deletes a file with what SQLite keeps beside it."""
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}.db")


def _numbers(path: Path) -> list[int]:
    """Of the view's files, whether live or not. Also of one of which only the log is left."""
    names = [each.name for each in path.parent.glob(f"{path.stem}.*.db*")]
    numbers = [name.removeprefix(f"{path.stem}.").partition(".db")[0] for name in names]
    return [int(number) for number in numbers if number.isdigit()]


def _live_number(path: Path) -> int:
    """0 where the view has no file, or one that has no number."""
    there = live(path)
    number = "" if there is None else there.name.removeprefix(f"{path.stem}.").removesuffix(".db")
    return int(number) if number.isdigit() else 0
