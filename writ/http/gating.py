"""What gates say of a release now: for a pipeline that waits, and as a picture for a page."""

from __future__ import annotations

from typing import Any, Final

from writ.evaluation.badge import badge
from writ.schemas.releasing import CheckGates, GatesTold

from .route import OK, SVG, Call, Reply, Route, first_line
from .shapes import derived

_RELEASE: Final = "/v1/processes/{process}/releases/{release}"
_ASKED: Final = derived(CheckGates)
_TOLD: Final = derived(GatesTold, ("error", "position"))
"""Without the position, which moves with every record: what the gates say is tagged by what they say."""


async def _asked(call: Call) -> GatesTold:
    given: Any = call.params
    return await call.client.check_gates(given.process, given.release, scope=given.scope, alias=given.alias)


async def _status(call: Call) -> Reply:
    told = await _asked(call)
    return Reply(_TOLD(**{each: getattr(told, each) for each in _TOLD.__struct_fields__}), told.position)


async def _badge(call: Call) -> Reply:
    told = await _asked(call)
    return Reply(badge(told), told.position)


ROUTES: Final = (
    Route(
        *("GET", f"{_RELEASE}/status", "check_gates", first_line(CheckGates.__doc__)),
        *(_ASKED, {OK: _TOLD}, _status),
    ),
    Route(
        *("GET", f"{_RELEASE}/badge", "get_badge", "What the gates of a release say, as an SVG picture."),
        *(_ASKED, {OK: str}, _badge),
        media_type=SVG,
    ),
)
