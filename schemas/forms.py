"""What messages are made of: the base of all that is asked, and the forms of their fields."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from .bounds import REASON_MAX_CHARS, TASK_MAX_BYTES, TOKEN_MAX_BYTES
from .ids import KEY_PATTERN, QUEUE_PATTERN, TOKEN_PATTERN
from .rejections import Rejection

Token = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_BYTES, pattern=TOKEN_PATTERN)]
QueueName = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_BYTES, pattern=QUEUE_PATTERN)]
"""A queue, or a lane of one."""

JobKey = Annotated[str, Meta(min_length=3, max_length=TOKEN_MAX_BYTES, pattern=KEY_PATTERN)]
"""`<queue>~<id>`."""

TaskName = Annotated[str, Meta(min_length=1, max_length=TASK_MAX_BYTES, pattern=r"^[^\x00-\x20\x7f]+$(?!\n)")]
Reason = Annotated[str, Meta(min_length=1, max_length=REASON_MAX_CHARS)]
Fence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Attempt = Annotated[int, Meta(ge=1, le=2**63 - 1)]
RunMs = Annotated[int, Meta(ge=0, le=2**53)]


TRACE_PATTERN = r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$(?!\n)"
Trace = Annotated[str, Meta(pattern=TRACE_PATTERN)]
"""A trace context of W3C, as of the header `traceparent`."""


class Command(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Base of what is asked."""


class Answer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What any request may be answered."""

    error: Rejection | None = None
    position: int = 0
