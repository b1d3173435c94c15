"""The subjects, built and taken apart in one place.

writ.submit.<tenant>.<principal>.<queue>             a client's submit
writ.lease.<tenant>.<principal>.<verb>.<queue>       a worker's request
writ.control.<tenant>.<principal>.<verb>.<queue>     an operator's request
writ.query.<tenant>.<principal>.<verb>               a read of the views
writ.query.<tenant>.<principal>.<verb>.<p>           the same of partition p alone
writ.store.<tenant>.<principal>.<verb>.<queue>       files and memory
writ.shard.<n>.<what follows writ.>                  the same first three, as the broker maps them
writ.shard.<n>.submit.<tenant>.mark                  behind all submits of a tenant to a shard that is to move
writ.log.<p>.<tenant>.<kind>.<key>                   the log of a partition
writ.feed.<tenant>.<kind>.<key>                      the log, republished for watching
writ.leader.<p>                                      a leader's beat
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from .ids import SYSTEM_TENANT

SUBMIT_STREAM: Final = "WRIT_SUBMIT"
SUBMIT_STORED: Final = "writ.shard.*.submit.>"
STORE_SERVED: Final = "writ.store.>"
NO_QUEUE: Final = "-"


def log_stream(partition: int) -> str:
    return f"WRIT_LOG_{partition}"


def mirror_stream(partition: int) -> str:
    return f"{log_stream(partition)}_MIRROR"


def log_subject(partition: int, tenant: str, kind: str, key: str) -> str:
    return f"writ.log.{partition}.{tenant}.{kind}.{key}"


def feed_subject(tenant: str, kind: str, key: str) -> str:
    return f"writ.feed.{tenant}.{kind}.{key}"


def submit_subject(tenant: str, principal: str, queue: str) -> str:
    return f"writ.submit.{tenant}.{principal}.{queue}"


def lease_subject(tenant: str, principal: str, verb: str, queue: str) -> str:
    return f"writ.lease.{tenant}.{principal}.{verb}.{queue}"


def control_subject(tenant: str, principal: str, verb: str, queue: str) -> str:
    return f"writ.control.{tenant}.{principal}.{verb}.{queue}"


def served(shards: Collection[int] | None) -> list[str]:
    """The subjects of lease and control requests to some shards; None stands for all."""
    which = ["*"] if shards is None else [str(shard) for shard in sorted(shards)]
    return [f"writ.shard.{shard}.{kind}.>" for shard in which for kind in ("lease", "control")]


def submits_of(shards: Collection[int] | None, tenant: str | None = None) -> list[str]:
    """The subjects of submits as they are stored: of some shards or all, of one tenant or all."""
    if shards is None and tenant is None:
        return []
    which = ["*"] if shards is None else [str(shard) for shard in sorted(shards)]
    whose = "" if tenant is None else f"{tenant}."
    return [f"writ.shard.{shard}.submit.{whose}>" for shard in which]


def taken_of(tenants: Collection[str] | None) -> list[str]:
    """The subjects of an intake that takes submits of these tenants alone, or of all."""
    if tenants is None:
        return [SUBMIT_STORED]
    # A stream has one subject at least: under the name of Writ itself nobody submits.
    return [submits_of(None, tenant)[0] for tenant in sorted({SYSTEM_TENANT, *tenants})]


def shard_in(subject: str) -> int:
    """The shard in a mapped subject."""
    return int(subject.split(".", 3)[2])


def mark_subject(shard: int, tenant: str) -> str:
    """One token shorter than any submit: the broker maps no principal's message to it."""
    return f"writ.shard.{shard}.submit.{tenant}.mark"


def mark_tenant(subject: str) -> str | None:
    """The tenant in the subject of a mark; None where it is none."""
    parts = subject.split(".")
    return parts[4] if len(parts) == 6 and parts[3] == "submit" and parts[5] == "mark" else None


def link_filter(partition: int, other: int) -> str:
    """The subjects of the records by which a partition speaks to another one."""
    return f"writ.log.{partition}.*.link.{other}"


def query_subject(tenant: str, principal: str, verb: str, partition: int | None = None) -> str:
    """Of one partition, or without its number of all, as far as a read goes through all."""
    whole = f"writ.query.{tenant}.{principal}.{verb}"
    return whole if partition is None else f"{whole}.{partition}"


def queries_of(partition: int) -> list[str]:
    """The subjects of the queries that the views of a partition answer."""
    own = f"writ.query.*.*.*.{partition}"
    return ["writ.query.*.*.*", own] if partition == 0 else [own]


def store_subject(tenant: str, principal: str, verb: str, queue: str) -> str:
    return f"writ.store.{tenant}.{principal}.{verb}.{queue}"


def leader_subject(partition: int) -> str:
    return f"writ.leader.{partition}"


def led_subject(partition: int | str = "*") -> str:
    """On which it is said, once, that a partition is led by another from now on; of all without a number."""
    return f"writ.led.{partition}"


class Addressed(NamedTuple):
    """Who asks for what: the broker's word, taken from the subject."""

    tenant: str
    principal: str
    verb: str
    queue: str


def parse_served(subject: str) -> Addressed:
    """A mapped subject `writ.shard.<n>.<class>.<tenant>.<principal>[.<verb>].<queue>`; submits have no verb.

    Raises ValueError where it has another shape.
    """
    parts = subject.split(".")
    if len(parts) == 7 and parts[3] == "submit":
        return Addressed(parts[4], parts[5], "submit", parts[6])
    if len(parts) == 8 and parts[3] in ("lease", "control"):
        return Addressed(parts[4], parts[5], parts[6], parts[7])
    raise ValueError(f"subject {subject!r} is not of the form writ.shard.<n>.<class>.<tenant>.<principal>...")


class LogAddress(NamedTuple):
    """Which aggregate a log subject names."""

    partition: int
    tenant: str
    kind: str
    key: str


def parse_log(subject: str) -> LogAddress:
    """A log subject taken apart. Raises ValueError where it has another shape."""
    parts = subject.split(".")
    if len(parts) != 6 or parts[1] != "log":
        raise ValueError(f"subject {subject!r} is not of the form writ.log.<p>.<tenant>.<kind>.<key>")
    return LogAddress(int(parts[2]), parts[3], parts[4], parts[5])
