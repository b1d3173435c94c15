"""The rules of answers: each must be true of the log when it leaves, and whatever it promises be stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from writ.schemas import bounds, commands
from writ.schemas.fleet import FLEET_VERBS
from writ.schemas.notes import Note, Recall, Recalled
from writ.schemas.rejections import Rejection, RejectionKind

from .fold import Fold
from .tally import TERMINAL, Tally, us

NOTHING: Final = msgspec.json.encode(commands.Acquired())
_REPORTS: Final = frozenset({"start", "complete", "fail", "release", "snooze", "suspend", "progress", "note"})
_decoders: Final[dict[str, Callable[[bytes], Any]]] = {
    verb: msgspec.json.Decoder(cls).decode
    for verb, cls in (commands.LEASE_VERBS | commands.CONTROL_VERBS).items()
}
_acquired: Final = msgspec.json.Decoder(commands.Acquired).decode
_renewed: Final = msgspec.json.Decoder(commands.Renewed).decode
_reported: Final = msgspec.json.Decoder(commands.Reported).decode
_started: Final = msgspec.json.Decoder(commands.Started).decode
_planned: Final = msgspec.json.Decoder(commands.Planned).decode
_recalled: Final = msgspec.json.Decoder(Recalled).decode
_answer: Final = msgspec.json.Decoder(commands.Answer).decode
_INSTEAD: Final = {"snooze": "release", "suspend": "release"}
"""How the lease of a job ends whose cancelling was accepted before."""

_MODES: Final = {"pause_queue": "paused", "drain_queue": "draining", "resume_queue": "open"}
_HELD: Final = frozenset({"paused", "exhausted", "dependency"})


class Asked(NamedTuple):
    """A request at its arrival: what the log held then, and where that stood which it names."""

    partition: int
    tenant: str
    principal: str
    verb: str
    queue: str
    body: bytes
    number: int
    seq: int
    key: str
    """The aggregate that a command is about, by `<tenant>.<key>`."""
    round: int
    """Of the job that it names; 0 where there is none."""
    records: int
    mode: str

    @property
    def line(self) -> str:
        return f"{self.tenant}.{self.queue}"


def arrived(fold: Fold, number: int, subject: str, body: bytes) -> Asked:
    """A request as it reaches a leader."""
    _, _, _, _, tenant, principal, verb, queue = subject.split(".")
    key, round_, records = f"{tenant}.{queue}", 0, 0
    if verb in commands.CONTROL_VERBS:
        try:
            named = msgspec.json.decode(body)
            named = named.get("id") or named.get("name") or named.get("batch")
            if verb in FLEET_VERBS:
                queue, named = msgspec.json.decode(body)["worker"], None
                key = f"{tenant}.{queue}"
        except (msgspec.MsgspecError, AttributeError):
            named = None
        if named is not None:
            key = f"{key}~{named}"
        job = fold.jobs.get(key)
        if job is not None:
            round_, records = job.round, job.records
    mode = fold.lines.at(f"{tenant}.{queue}").mode
    return Asked(
        fold.partition, tenant, principal, verb, queue, body, number, fold.seq, key, round_, records, mode
    )


class Answers:
    """Checks answers against a log; what is not true is told to `broken`."""

    def __init__(self, broken: Callable[[str], None], checks: Counter[str]) -> None:
        self._broken = broken
        self._checks = checks

    def check(self, fold: Fold, asked: Asked, said: bytes) -> None:
        """An answer as it leaves."""
        verb = asked.verb
        if verb == "acquire":
            self._acquired(fold, asked, _acquired(said))
        elif verb == "renew":
            self._renewed(fold, asked, _renewed(said))
        elif verb == "recall":
            self._recalled(fold, asked, _recalled(said))
        elif verb in _REPORTS:
            self._reported(fold, asked, _reported(said))
        elif verb in commands.CONTROL_VERBS:
            self._control(fold, asked, said)

    # --- workers ------------------------------------------------------------------------------------------

    def _acquired(self, fold: Fold, asked: Asked, said: commands.Acquired) -> None:
        if said.error is not None:
            return
        command: commands.Acquire = _decoders["acquire"](asked.body)
        most = bounds.LEASES_PER_REQUEST_MAX if command.again else command.count
        if len(said.leases) > most:
            self._broken(f"{len(said.leases)} leases for an acquire of {most}")
        for lease in said.leases:
            key = f"{asked.line}~{lease.id}"
            want = key, command.worker, asked.principal
            if fold.rules.granted.get(lease.token) != want:
                self._broken(f"lease {lease.token} of {lease.id} was answered, and is not in the log")
            elif command.tasks and lease.task not in command.tasks:
                self._broken(f"{command.worker} was given {lease.task}, which it does not know")
            elif fold.jobs[key].last_token == lease.token:
                self._brought(fold, fold.jobs[key], lease)

    def _brought(self, fold: Fold, job: Tally, lease: commands.Lease) -> None:
        """A lease brings all signals so far, and the outputs of those before."""
        granted = lease.token & ((1 << 40) - 1)
        got = {(came.name, came.seq, bytes(came.data)) for came in lease.signals}
        missing = [signal for signal in job.signals if signal[1] < granted and signal not in got]
        if missing:
            self._broken(f"the lease of {job.key} does not bring signals {missing}")
        for field, key in job.given.input_from.items():
            before = fold.bonds.find(job.tenant, key)
            have = msgspec.json.decode(lease.input).get(field)
            if before is not None and before.round == 1 and 0 < before.ended_by < granted:
                want = None if before.output is None else msgspec.json.decode(before.output)
                if have != want:
                    self._broken(f"{job.key} got {have} from {key}, whose output is {want}")

    def _renewed(self, fold: Fold, asked: Asked, said: commands.Renewed) -> None:
        if said.error is not None:
            return
        held: tuple[commands.Held, ...] = _decoders["renew"](asked.body).leases
        lost = {rejection.index: rejection for rejection in said.lost}
        for index, each in enumerate(held):
            if index in lost:
                self._void(fold, asked, each.id, each.token, lost[index])
            elif fold.rules.renewals.get(each.token, 0) <= asked.seq:
                self._broken(f"the renewal of token {each.token} was accepted, and is not in the log")
            else:
                self._heard(fold, asked, each, said)

    def _heard(self, fold: Fold, asked: Asked, held: commands.Held, said: commands.Renewed) -> None:
        """A beat brings what came for the job before it."""
        job = fold.jobs[f"{asked.line}~{held.id}"]
        if job.last_token != held.token:
            return
        got = {came.seq for came in (said.signals or {}).get(held.id, ())}
        missing = [seq for _, seq, _ in job.signals if held.seen < seq <= asked.seq and seq not in got]
        if missing:
            self._broken(f"a beat of {job.key} does not bring the signals {missing}")
        told = held.id in said.cancel
        wanted = job.cancel is not None and job.cancel_seq <= asked.seq and job.undoes is None
        if job.token == held.token and wanted and not told:
            self._broken(f"a beat of {job.key} does not say that it is cancelled")

    def _reported(self, fold: Fold, asked: Asked, said: commands.Reported) -> None:
        if said.error is not None:
            return
        rules, verb = fold.rules, asked.verb
        refused = {rejection.index: rejection for rejection in said.refused}
        command: Any = _decoders[verb](asked.body)
        if verb in ("snooze", "suspend", "progress") and said.refused:
            self._void(fold, asked, command.id, command.token, said.refused[0])
            return
        for index, (job_id, token) in enumerate(_named_in(command)):
            if index in refused:
                self._void(fold, asked, job_id, token, refused[index])
                continue
            if verb == "start":
                stored = token in rules.started
            elif isinstance(command, Note):
                report = command.reports[index]
                stored = len(rules.noted.get(token, ())) >= report.first + len(report.notes) - 1
            elif verb == "progress":
                stored = rules.progressed.get(token, 0) > asked.seq
            else:
                stored = rules.ended.get(token, ("", 0))[0] in (verb, _INSTEAD.get(verb))
            granted = rules.granted.get(token)
            if not stored or granted is None:
                self._broken(f"the {verb} of token {token} was accepted, and is not in the log")
            elif granted[0] != f"{asked.line}~{job_id}":
                self._broken(f"{verb} of {job_id} was accepted for token {token} of {granted[0]}")
            elif isinstance(command, commands.Snooze | commands.Suspend) and token in rules.waits:
                self._asleep(fold, command, token)

    def _recalled(self, fold: Fold, asked: Asked, said: Recalled) -> None:
        """A later attempt is given every step, as the log has it."""
        if said.error is not None:
            return
        command: Recall = _decoders["recall"](asked.body)
        steps = fold.jobs[f"{asked.line}~{command.id}"].steps[command.after :]
        have = [(step.name, step.seq) for step in said.steps]
        if have != [(step.name, step.seq) for step in steps[: len(have)]] or (steps and not have):
            self._broken(f"the steps of {command.id} recalled are {have}")

    def _asleep(self, fold: Fold, command: commands.Snooze | commands.Suspend, token: int) -> None:
        """An attempt sleeps for as long as it asked, and no longer."""
        wait = fold.rules.waits[token]
        if isinstance(command, commands.Snooze):
            if wait.until != wait.since_at + us(command.delay_s):
                self._broken(f"token {token} snoozes until {wait.until}, not for {command.delay_s} s")
            return
        until = None if command.timeout_s is None else wait.since_at + us(command.timeout_s)
        want = command.reason, () if command.on is None else (command.on,), until, command.on_timeout
        if wait[:4] != want:
            self._broken(f"token {token} waits for {wait}, and asked for {want}")
        newest, woken = fold.rules.slept.get(token, (0, 0))[1], token in fold.rules.woken
        if command.reason == "signal" and woken != (newest > command.seen):
            self._broken(f"token {token} had seen {command.seen}, there was {newest}: woken is {woken}")

    def _void(self, fold: Fold, asked: Asked, job_id: str, token: int, said: Rejection) -> None:
        """What is said to be void must be so; nothing else may be claimed of a live lease."""
        job = fold.jobs.get(f"{asked.line}~{job_id}")
        if said.kind is RejectionKind.TRY_LATER:
            return
        self._checks["void"] += 1
        if said.kind is RejectionKind.NOT_FOUND:
            if job is not None and job.since <= asked.seq:
                self._broken(f"{asked.principal} was told that {job_id} does not exist")
        elif said.kind is RejectionKind.STALE:
            live = job is not None and job.token == token and job.principal == asked.principal
            if live:
                self._broken(f"{asked.principal} was told that live token {token} of {job_id} is void")

    # --- operators ----------------------------------------------------------------------------------------

    def _control(self, fold: Fold, asked: Asked, said: bytes) -> None:
        error = _answer(said).error
        job = fold.jobs.get(asked.key)
        if error is None:
            stored = fold.operated.get((asked.verb, asked.key), 0) > asked.seq
            if not stored and not self._needless(fold, asked, said, job):
                self._broken(f"{asked.verb} of {asked.key} was accepted, and is not in the log")
            elif asked.verb == "terminate" and job is not None and job.live and job.round == asked.round:
                self._broken(f"terminate of {asked.key} was accepted, and it is {job.state}")
        elif error.kind is RejectionKind.NOT_FOUND:
            if job is not None and asked.round:
                self._broken(f"an operator was told that {asked.key} does not exist")
        elif error.kind is RejectionKind.CONFLICT:
            wrong = job is not None and job.records == asked.records and _allowed(asked.verb, job)
            if wrong:
                self._broken(f"{asked.verb} of {asked.key}, which allows it, was refused: {error.reason}")

    @staticmethod
    def _needless(fold: Fold, asked: Asked, said: bytes, job: Tally | None) -> bool:
        """Whether a command could be accepted without a record of its own."""
        verb, command = asked.verb, _decoders[asked.verb](asked.body)
        if verb == "cancel":
            return job is not None and (job.cancel is not None or job.round > asked.round or not job.live)
        if verb in _MODES:
            return _MODES[verb] in (asked.mode, fold.lines.at(asked.line).mode)
        if verb in FLEET_VERBS:
            return True  # it is so already, or was when this was decided
        if verb == "declare":
            return command.policy in fold.lines.at(asked.line).policies
        if verb == "seal_batch":
            batch = fold.bonds.batches.get(asked.key)
            return batch is not None and batch.size == command.size
        if verb == "plan":
            key = _planned(said).operation
            return command.dry_run if key is None else f"{asked.tenant}.{key}" in fold.operations.known
        if verb == "declare_schedule":
            schedule = fold.timetable.schedules.get(asked.key)
            return schedule is not None and schedule.spec == command.spec
        return verb == "backfill_schedule" and not _started(said).jobs


def _allowed(verb: str, job: Tally) -> bool:
    """Whether a job's state allows a command."""
    wait = None if job.wait is None else job.wait.reason
    held: dict[str, bool] = {
        "cancel": job.live and job.undoes is None,
        "terminate": job.live,
        "redrive": job.state == "dead" and job.given.unique_key is None,
        "rerun": job.state in TERMINAL and job.given.unique_key is None,
        "drop": job.state == "dead" and job.dropped is None,
        "pause": job.live and not job.token and wait is None,
        "resume": wait in _HELD,
        "approve": wait == "approval",
        "reject": wait == "approval",
        "signal": job.live,
        "edit": job.state in ("scheduled", "pending", "suspended") and not job.attempt,
    }
    return held.get(verb, False)


def _named_in(command: Any) -> list[tuple[str, int]]:
    """The ids and tokens that a report is about."""
    if isinstance(command, commands.Complete | commands.Fail | Note):
        return [(each.id, each.token) for each in command.reports]
    if isinstance(command, commands.Start | commands.Release):
        return [(each.id, each.token) for each in command.leases]
    return [(command.id, command.token)]
