"""What went wrong while a command ran, and what to type next. Loaded when something did."""

from __future__ import annotations

import traceback

from writ.broker.errors import (
    JobEnded,
    JobNotFound,
    NoAnswer,
    NoResponders,
    NotAdmitted,
    PermissionDenied,
    Refused,
    Unreachable,
    WritError,
)
from writ.broker.keys import KeyFileError
from writ.broker.owned import AlreadyRunningError, BrokerError
from writ.broker.ports import OutcomeUnknown
from writ.children.keeper import ChildFailed
from writ.schemas.chain import TooNew, Violation
from writ.schemas.rejections import RejectionKind

from .usage import UNREACHABLE, tell


def show(error: Exception, *, debug: bool = False) -> int:
    """Says it on standard error; the exit code."""
    if debug:
        traceback.print_exception(error)
    message = " ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    match error:
        case NotAdmitted():
            tell(message, ["writ login --url URL --creds FILE --principal NAME", "writ context list"])
            return UNREACHABLE
        case Unreachable() | NoAnswer() | NoResponders() | OutcomeUnknown():
            tell(message, ["writ up --detach", "writ status --wait 30"])
            return UNREACHABLE
        case JobNotFound():
            tell(message, ["writ jobs"])
        case PermissionDenied():
            who_may = "writ grant NAME ROLE --in QUEUE --reason R            (by an admin or owner: ask one)"
            tell(message, ["writ whoami", "writ policy show            (which role allows what)", who_may])
        case AlreadyRunningError():
            tell(message, ["writ status", "writ down"])
        case Violation() if not isinstance(error, TooNew):
            tell(f"the log is not what was stored: {message}", ["writ restore FOLDER", "writ audit verify"])
        case TooNew():
            tell(f"the log is of a newer Writ: {message}", ["pip install --upgrade writ-orchestrator"])
        case JobEnded():
            tell(message, [f"writ explain {error.id} --queue {error.queue}"])
        case Refused() if error.kind is RejectionKind.TRY_LATER:
            tell(message, ["writ status"])
        case BrokerError() | KeyFileError() | WritError() | ChildFailed():
            tell(message)
        case TimeoutError() | OSError():
            tell(message)
        case _:
            if not debug:
                tell(f"unexpected: {type(error).__name__}: {message}", ["the same command with --debug"])
    return 1
