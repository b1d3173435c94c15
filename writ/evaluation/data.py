"""Data sets: items with what is expected of them, from JSON lines or CSV."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path
from typing import Any, Final

import msgspec

from writ.schemas.forms import Token

ITEMS_MAX: Final = 10_000


class DataError(ValueError):
    """A data set that cannot be used; says in which line."""


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One item: the input of its jobs, what is expected, and tags to sum up by."""

    id: Token
    input: Any
    expected: Any = None
    tags: tuple[str, ...] = ()


class DataSet(msgspec.Struct, frozen=True):
    """Items in the order of their file. Two files of the same items have the same `digest`."""

    name: str
    items: tuple[Item, ...]
    digest: str
    """SHA-256 of the items as canonical JSON lines, in hex: the data set's version."""


def read_data(path: Path) -> DataSet:
    """Read a data set from `NAME.jsonl` or `NAME.csv`.

    A line of JSON is an item: `{"id": ..., "input": ..., "expected": ..., "tags": [...]}`; without `id` it is
    known by its number. A CSV file has columns `input.NAME` and `expected.NAME` (or just `input` and
    `expected`), and may have `id` and `tags`, these separated by spaces; values are texts.

    Raises:
        DataError: it cannot be read, an item is wrong or twice there, or there is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if path.suffix == ".csv":
        rows = _of_csv(path, text)
    elif path.suffix == ".jsonl":
        rows = _of_lines(path, text)
    else:
        raise DataError(f"{path} must end in .jsonl or .csv, so that its form is known")
    items: dict[str, Item] = {}
    for number, (line, row) in enumerate(rows, 1):
        try:
            item = msgspec.convert({"id": str(number), **row}, Item)
        except msgspec.ValidationError as error:
            raise DataError(f"{path}, line {line}: {error}") from error
        if item.id in items:
            raise DataError(
                f"{path}, line {line}: an item {item.id!r} is there already; each needs its own id"
            )
        items[item.id] = item
        if len(items) > ITEMS_MAX:
            raise DataError(f"{path} has more than {ITEMS_MAX:,} items, which is the most")
    if not items:
        raise DataError(f"{path} has no items")
    canonical = b"\n".join(msgspec.json.encode(item, order="sorted") for item in items.values())
    return DataSet(path.stem, tuple(items.values()), hashlib.sha256(canonical).hexdigest())


def _of_lines(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), 1):  # other ends of lines may stand in JSON's strings
        if not line.strip():
            continue
        try:
            rows.append((number, msgspec.json.decode(line, type=dict[str, Any])))
        except msgspec.DecodeError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return rows


def _of_csv(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, line {reader.line_num}: it has not as many fields as the head")
            rows.append((reader.line_num, _item_of(row)))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


def _item_of(row: dict[str, str]) -> dict[str, Any]:
    item: dict[str, Any] = {}
    for column, value in row.items():
        part, _, field = column.partition(".")
        if field and part in ("input", "expected"):
            item.setdefault(part, {})[field] = value
        elif column == "tags":
            item["tags"] = value.split()
        elif column == "id" and not value:
            continue
        else:
            item[column] = value
    return item
