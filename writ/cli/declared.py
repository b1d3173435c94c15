"""A TOML file of policies: tenant, queues, schedules, prices, alerts; each is checked before any is used."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .usage import UsageError, nearest

if TYPE_CHECKING:
    import msgspec

    from writ.schemas.alerts import AlertPolicy
    from writ.schemas.policy import QueuePolicy
    from writ.schemas.prices import PricePolicy
    from writ.schemas.schedules import ScheduleSpec
    from writ.schemas.tenants import TenantPolicy

T = TypeVar("T", bound="msgspec.Struct")
_TABLES: Final = ("tenant", "queues", "schedules", "prices", "alerts")
_MICRO: Final = 1_000_000
_ROUNDED: Final = 1e-3
"""By so much of a micro-dollar a decimal fraction may be off in binary."""

HELP: Final = ["writ apply --help            (shows a file)"]


@dataclass
class Declared:
    """What the file says."""

    queues: dict[str, QueuePolicy] = field(default_factory=dict[str, "QueuePolicy"])
    schedules: dict[str, tuple[str, ScheduleSpec, bytes]] = field(
        default_factory=dict[str, "tuple[str, ScheduleSpec, bytes]"]
    )
    prices: dict[str, tuple[PricePolicy, ...]] = field(default_factory=dict[str, "tuple[PricePolicy, ...]"])
    alerts: dict[str, AlertPolicy] = field(default_factory=dict[str, "AlertPolicy"])
    tenant: TenantPolicy | None = None


def read(name: str) -> Declared:
    """The file's tables, each checked. Raises UsageError, which names the table and the field."""
    document = _document(name)
    declared = Declared()
    for table, content in document.items():
        if table not in _TABLES or not isinstance(content, dict):
            meant = nearest(table, _TABLES)
            hint = f"; did you mean {meant}?" if meant and meant != table else ""
            raise UsageError(
                f"{name}: {table} is not a table of {', '.join(_TABLES[:-1])} or alerts{hint}", HELP
            )
    if "tenant" in document:
        declared.tenant = _tenant(name, document["tenant"])
    for queue, table in document.get("queues", {}).items():
        declared.queues[queue] = _queue(name, queue, table)
    for schedule, table in document.get("schedules", {}).items():
        declared.schedules[schedule] = _schedule(name, schedule, table)
    for model, tables in document.get("prices", {}).items():
        declared.prices[model] = _prices(name, model, tables)
    for alert, table in document.get("alerts", {}).items():
        declared.alerts[alert] = _alert(name, alert, table)
    if not document:
        raise UsageError(f"{name} holds no [queues.NAME], [schedules.NAME], [prices.MODEL] or [tenant]", HELP)
    return declared


def _document(name: str) -> dict[str, Any]:
    try:
        if name == "-":
            text = sys.stdin.read()
        else:
            with open(name, encoding="utf-8") as file:
                text = file.read()
        return tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}", HELP) from error
    except (ValueError, RecursionError) as error:  # numbers too long to read are no error of TOML's own
        raise UsageError(f"{name} is not TOML: {error}", HELP) from error


def _tenant(file: str, table: Any) -> TenantPolicy:
    from writ.schemas.tenants import TenantPolicy

    return _converted(f"{file}: tenant", table, TenantPolicy)


def _queue(file: str, name: str, table: Any) -> QueuePolicy:
    from writ.schemas.ids import token_fault
    from writ.schemas.policy import QueuePolicy

    where = f"{file}: queues.{name}"
    fault = token_fault(name, "queue")
    if fault is not None:
        raise UsageError(f"{where}: {fault}", HELP)
    return _converted(where, table, QueuePolicy)


def _schedule(file: str, name: str, table: Any) -> tuple[str, ScheduleSpec, bytes]:
    import msgspec

    from writ.schemas.ids import token_fault
    from writ.schemas.schedules import ScheduleSpec, spec_fault

    where = f"{file}: schedules.{name}"
    if not isinstance(table, dict):
        raise UsageError(f"{where} is not a table", HELP)
    rest: dict[str, Any] = dict(table)  # pyright: ignore[reportUnknownArgumentType]
    queue = rest.pop("queue", None)
    if not isinstance(queue, str):
        raise UsageError(f"{where}.queue: the queue in which it starts jobs is missing", HELP)
    for value, what in ((name, "schedule"), (queue, "queue")):
        fault = token_fault(value, what)
        if fault is not None:
            raise UsageError(f"{where}: {fault}", HELP)
    content = msgspec.json.encode(rest.pop("input", None))
    spec = _converted(where, rest, ScheduleSpec)
    wrong = spec_fault(spec)
    if wrong is not None:
        raise UsageError(f"{where}.{wrong.field}: {wrong.reason}", HELP)
    return queue, spec, content


def _prices(file: str, model: str, tables: Any) -> tuple[PricePolicy, ...]:
    """One table, or several, each from its time on."""
    from writ.schemas.prices import PricePolicy

    many: list[Any] = tables if isinstance(tables, list) else [tables]  # pyright: ignore[reportUnknownVariableType]
    found: list[PricePolicy] = []
    for number, table in enumerate(many, 1):
        where = f"{file}: prices.{model}" + (f" ({number} of {len(many)})" if len(many) > 1 else "")
        price = _converted(where, table, PricePolicy)
        fault = _mispriced(model, price)
        if fault is not None:
            raise UsageError(f"{where}: {fault}", HELP)
        found.append(price)
    return tuple(found)


def _mispriced(model: str, price: PricePolicy) -> str | None:
    """Why a price cannot be set."""
    from writ.schemas.bounds import NAME_MAX_CHARS

    if not 1 <= len(model) <= NAME_MAX_CHARS:
        return f"the model's name has {len(model)} characters; give 1 to {NAME_MAX_CHARS}"
    for field_ in ("input", "output"):
        usd = getattr(price, field_)
        micro = usd * _MICRO
        if abs(micro - round(micro)) > _ROUNDED:
            return f"{field_} {usd} is finer than a millionth of a dollar"
    return None


def _alert(file: str, name: str, table: Any) -> AlertPolicy:
    from writ.schemas.alerts import AlertPolicy

    return _converted(f"{file}: alerts.{name}", table, AlertPolicy)


def _converted(where: str, table: Any, kind: type[T]) -> T:
    import msgspec

    from writ.schemas.faults import explain_fault

    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        path, reason = explain_fault(error, msgspec.json.encode(table), kind)
        known = [each.encode_name for each in msgspec.structs.fields(kind)]
        meant = nearest(path, known) if path and "unknown field" in reason else None
        hint = f"; did you mean {meant}?" if meant else ""
        raise UsageError(f"{where}{f'.{path}' if path else ''}: {reason}{hint}", HELP) from error
