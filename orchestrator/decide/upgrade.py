"""Whether records may be written in a newer version."""

from __future__ import annotations

from collections.abc import Sequence

from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.upgrading import Member, RaiseRecords, RecordsRaised


def raise_records(
    now: int, members: Sequence[Member], command: RaiseRecords
) -> tuple[RecordsRaised, ...] | Rejection:
    """What comes of asking for a version, where records are written in version `now`; () where it is that."""
    asked = command.version
    if asked == now:
        return ()
    if asked < now:
        reason = (
            f"records are written in version {now}, and there are such in the log: "
            f"version {asked} is not gone back to"
        )
        return Rejection(RejectionKind.CONFLICT, reason, "version")
    behind = [each for each in members if each.reads < asked]
    if behind or not members:
        who = ", ".join(f"{each.name} up to {each.reads}" for each in behind) or "nobody said what"
        reason = (
            f"not every orchestrator reads records of version {asked}: {who}; start the newer Writ there, "
            "or stop it, and ask again"
        )
        return Rejection(RejectionKind.CONFLICT, reason, "version")
    return (RecordsRaised(asked, now, tuple(sorted(members)), command.reason),)
