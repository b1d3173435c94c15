"""What can go wrong between a caller and Writ, in words that say what to do."""

from __future__ import annotations

from typing import Final

from writ.schemas.events import DeadReason
from writ.schemas.queries import ErrorView
from writ.schemas.rejections import Rejection, RejectionKind

STREAM_FULL: Final = 10077
"""nats-server's number for a stream that has all that it may have."""


class WritError(Exception):
    """Base of all that Writ raises to its callers."""


class WireError(WritError):
    """The broker or whoever answers behind it could not be had."""


class Unreachable(WireError):
    """No broker answers at `url`, it does not let us in, or it ended the connection for good."""

    def __init__(self, url: str, why: object) -> None:
        super().__init__(
            f"cannot reach the broker at {url}: {why}; start a node with `writ up`, or set NATS_URL"
        )
        self.url = url


class NotAdmitted(Unreachable):
    """The broker answers, and does not let this principal in."""

    def __init__(self, url: str, shown: str) -> None:
        WireError.__init__(
            self,
            f"the broker at {url} does not admit {shown}: it is no principal's, or the principal is "
            "revoked, or nobody answers for logins just now; `writ env` names the key of this machine's node",
        )
        self.url = url


class ClientClosed(Unreachable):
    """The client was closed by its own program, before the call or while it waited."""

    def __init__(self, url: str) -> None:
        WireError.__init__(self, "this client is closed; enter it again with `async with`, or make another")
        self.url = url


class PermissionDenied(WireError):
    """This principal may not publish to, or subscribe to, `subject`, or may not do what it asked there.

    `rule` is what decided: `deny.<why>` of the policy, or `broker.publish` and `broker.subscribe` where
    no role of the principal opens the subject. Where Writ itself denied it, `rejection` tells why, and ends
    with the rule in brackets.
    """

    def __init__(self, subject: str, verb: str = "publish", rejection: Rejection | None = None) -> None:
        self.subject = subject
        self.verb = verb
        self.rejection = rejection
        if rejection is None:
            self.rule = f"broker.{verb}"
            why = f"this principal may not {verb} to {subject}: no role of it opens that [{self.rule}]"
        else:
            self.rule = rejection.reason.rpartition("[")[2].rstrip("]")
            why = rejection.reason
        super().__init__(f"permission denied: {why}")


class TooLarge(WireError):
    """The broker takes no message of so many bytes, so nothing was sent: the same one never will be."""

    def __init__(self, subject: str, size_bytes: int) -> None:
        super().__init__(f"a message of {size_bytes} bytes to {subject} is larger than the broker takes")
        self.subject = subject


class NoAnswer(WireError):
    """A request was sent, perhaps, and not answered in time: it may have been carried out."""

    def __init__(self, subject: str, timeout_s: float, why: str | None = None) -> None:
        why = f": {why}" if why else f" within {timeout_s:g} s"
        super().__init__(f"no answer from {subject}{why}; see `writ status`")
        self.subject = subject


class NoResponders(WireError):
    """Nobody serves the subject just now: the request surely was not carried out."""

    def __init__(self, subject: str) -> None:
        waits = subject.startswith("writ.submit.")
        hint = "; or too much of the tenant waits to be decided on: submit again later" if waits else ""
        super().__init__(f"nobody serves {subject}; is a node running? see `writ status`{hint}")
        self.subject = subject


class SubmitNotStored(WireError):
    """The broker refused to store a submit: `code` is its number for the reason.

    It is STREAM_FULL where too much waits to be decided on, of the principal in that queue or at all.
    """

    def __init__(self, reason: str, code: int) -> None:
        later = (
            "; too much waits to be decided on, or the disk is full: submit again later, see `writ status`"
        )
        hint = later if code == STREAM_FULL else ""
        super().__init__(f"the broker did not store the submit: {reason} ({code}){hint}")
        self.code = code


class Refused(WritError):
    """Writ refused what was asked; `rejection` is the refusal as data, `kind` what to branch on."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"{rejection.field}: {rejection.reason}" if rejection.field else rejection.reason)
        self.rejection = rejection

    @property
    def kind(self) -> RejectionKind:
        return self.rejection.kind


class SubmitRefused(Refused):
    """A job was refused, by the client before it was sent or by the orchestrator: it does not exist."""


class JobNotFound(WritError):
    """No job has this id."""


class JobEnded(WritError):
    """Base: a job whose result was awaited ended without one."""

    def __init__(self, queue: str, job_id: str, text: str) -> None:
        super().__init__(f"job {job_id} in queue {queue} {text}")
        self.queue = queue
        self.id = job_id


class JobCancelled(JobEnded):
    """The job was cancelled; `reason` is the canceller's."""

    def __init__(self, queue: str, job_id: str, reason: str | None) -> None:
        super().__init__(queue, job_id, f"was cancelled: {reason}" if reason else "was cancelled")
        self.reason = reason


class JobFailed(JobEnded):
    """The job is a dead letter.

    `reason` is the kind of end where it is known, `rule` which limit or list decided, in words, and `error`
    the last attempt's error, with its `class_`, `type` and `text`, where there is one.
    """

    def __init__(
        self, queue: str, job_id: str, reason: DeadReason | None, rule: str | None, error: ErrorView | None
    ) -> None:
        text = "is dead" + (f" ({reason})" if reason else "") + (f": {rule}" if rule else "")
        if error is not None:
            first = error.text.split("\n", 1)[0] if error.text else ""
            text += f"; the last error is {error.type}" + (f": {first}" if first else "")
        super().__init__(queue, job_id, text)
        self.reason = reason
        self.rule = rule
        self.error = error
