"""What is asked about processes: packages kept and fetched, releases published, promoted and stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from writ.schemas import releasing
from writ.schemas.canaries import CanaryPolicy, Finding
from writ.schemas.commands import Answer, Command
from writ.schemas.evaluations import Measured, Outcome
from writ.schemas.gates import Gate, GateSpec, PolicyName
from writ.schemas.processes import Pinned, Process
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.releasing import Gates, GatesTold, Processes, Promoted
from writ.schemas.stored import PART_MAX_BYTES, KeepPackage, PackageKept, PackagePart, PackageQuery
from writ.schemas.subjects import NO_QUEUE

from .errors import Refused
from .looking import Looking
from .operating import Operating


class Releasing(Looking, Operating):
    """Each change is one recorded decision. A `release` is named by its version, its digest or an alias."""

    async def _of_release(self, command: Command, timeout_s: float) -> Answer:
        return await self.send(NO_QUEUE, command, timeout_s=timeout_s)

    # --- packages ---------------------------------------------------------------------------------------

    async def keep_package(self, digest: str, content: bytes, *, timeout_s: float = 30.0) -> None:
        """Puts a package into the store, unless it is there. `timeout_s` is for each part."""
        at = 0
        while True:
            data = content[at : at + PART_MAX_BYTES]
            part = KeepPackage(digest=digest, size_bytes=len(content), at=at, data=data)
            kept = await self.ask(part, timeout_s=timeout_s)
            assert isinstance(kept, PackageKept)
            if kept.whole:
                return
            at = kept.next

    async def package(self, digest: str, *, queue: str | None = None, timeout_s: float = 30.0) -> bytes:
        """A package from the store, as it came: `writ.packages.open_package` checks it. Raises Refused.

        Whoever is granted some queues alone says for which `queue`; here and in `processes`.
        """
        content = b""
        while True:
            query = PackageQuery(digest=digest, at=len(content), queue=queue)
            part = await self.ask(query, timeout_s=timeout_s)
            assert isinstance(part, PackagePart)
            content += part.data
            if len(content) >= part.size_bytes or not part.data:
                return content

    # --- releases ---------------------------------------------------------------------------------------

    async def publish_release(
        self,
        process: str,
        version: str,
        digest: str,
        *,
        size_bytes: int,
        key: str,
        kind: Literal["agent", "rpa", "job"] = "job",
        commit: str | None = None,
        modified: bool = False,
        timeout_s: float = 10.0,
    ) -> int:
        """Makes a kept package a release of the process, and its candidate. `key` signed it, and is ours."""
        command = releasing.PublishRelease(
            process=process,
            version=version,
            digest=digest,
            size_bytes=size_bytes,
            key=key,
            kind=kind,
            commit=commit,
            modified=modified,
        )
        return (await self._of_release(command, timeout_s)).position

    async def processes(
        self, process: str | None = None, *, queue: str = NO_QUEUE, timeout_s: float = 10.0
    ) -> tuple[Process, ...]:
        """All processes of the tenant with their releases and aliases, or one."""
        command = releasing.ListProcesses(process=process)
        answer = await self.send(queue, command, timeout_s=timeout_s)
        assert isinstance(answer, Processes)
        return answer.processes

    async def canaries(
        self, process: str | None = None, *, queue: str = NO_QUEUE, timeout_s: float = 10.0
    ) -> tuple[Finding, ...]:
        """What canaries that are judged have shown until now, in the partition that holds the queue."""
        answer = await self.send(queue, releasing.ListProcesses(process=process), timeout_s=timeout_s)
        assert isinstance(answer, Processes)
        return answer.canaries

    async def process(self, name: str, *, queue: str = NO_QUEUE, timeout_s: float = 10.0) -> Process:
        """One process. Raises Refused, of kind not_found, where nothing of it was published."""
        found = await self.processes(name, queue=queue, timeout_s=timeout_s)
        if not found:
            reason = f"there is no process {name}"
            raise Refused(Rejection(RejectionKind.NOT_FOUND, reason, "process"))
        return found[0]

    async def promote_release(
        self,
        process: str,
        release: str,
        reason: str = "requested",
        *,
        alias: Literal["live", "candidate"] = "live",
        scope: str = "*",
        override: bool = False,
        timeout_s: float = 10.0,
    ) -> Promoted:
        """Points an alias at a release through its gates. Raises Refused where they say no.

        With `override` it is proposed instead: the answer's `proposal` is for `approve_promotion`.
        """
        command = releasing.PromoteRelease(
            process=process, release=release, alias=alias, scope=scope, override=override, reason=reason
        )
        answer = await self._of_release(command, timeout_s)
        assert isinstance(answer, Promoted)
        return answer

    async def approve_promotion(
        self,
        process: str,
        number: int,
        reason: str = "requested",
        *,
        scope: str = "*",
        timeout_s: float = 10.0,
    ) -> Promoted:
        """The second person's yes to a promotion against its gates, in the scope that it is for."""
        command = releasing.ApprovePromotion(process=process, number=number, scope=scope, reason=reason)
        answer = await self._of_release(command, timeout_s)
        assert isinstance(answer, Promoted)
        return answer

    async def rollback_release(
        self,
        process: str,
        reason: str = "requested",
        *,
        to: str | None = None,
        scope: str = "*",
        pinned: Pinned | str = Pinned.STAY,
        timeout_s: float = 10.0,
    ) -> int:
        """Points live back at what it was before, or at `to`. With `pinned` "move" begun jobs follow it."""
        command = releasing.RollbackRelease(
            process=process, release=to, scope=scope, pinned=Pinned(pinned), reason=reason
        )
        return (await self._of_release(command, timeout_s)).position

    async def freeze_release(
        self, process: str, release: str | None = None, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """No lease for a release any more, or for any of the process."""
        command = releasing.FreezeRelease(process=process, release=release, reason=reason)
        return (await self._of_release(command, timeout_s)).position

    async def unfreeze_release(
        self, process: str, release: str | None = None, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Ends a freeze, of a release or of the process."""
        command = releasing.UnfreezeRelease(process=process, release=release, reason=reason)
        return (await self._of_release(command, timeout_s)).position

    async def revoke_release(
        self, process: str, release: str, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """No lease for a release, ever again."""
        command = releasing.RevokeRelease(process=process, release=release, reason=reason)
        return (await self._of_release(command, timeout_s)).position

    async def start_canary(
        self,
        process: str,
        release: str,
        reason: str = "requested",
        *,
        percent: float = 0.0,
        keys: Sequence[str] = (),
        scope: str = "*",
        policy: CanaryPolicy | None = None,
        timeout_s: float = 10.0,
    ) -> Promoted:
        """Gives a release to some of the jobs that name live: a percentage, or those of fairness `keys`.

        With a `policy` the orchestrator judges it by the results of its jobs, and acts.
        """
        command = releasing.StartCanary(
            process=process,
            release=release,
            percent=percent,
            keys=tuple(keys),
            scope=scope,
            policy=policy,
            reason=reason,
        )
        answer = await self._of_release(command, timeout_s)
        assert isinstance(answer, Promoted)
        return answer

    async def end_canary(
        self, process: str, reason: str = "requested", *, scope: str = "*", timeout_s: float = 10.0
    ) -> int:
        """All jobs that name live get what it points at."""
        command = releasing.EndCanary(process=process, scope=scope, reason=reason)
        return (await self._of_release(command, timeout_s)).position

    # --- what gates ask for -----------------------------------------------------------------------------

    async def approve_release(
        self, process: str, release: str, reason: str, *, scope: str = "*", timeout_s: float = 10.0
    ) -> int:
        """A person's yes to a release, which a gate may ask for."""
        command = releasing.ApproveRelease(process=process, release=release, scope=scope, reason=reason)
        return (await self._of_release(command, timeout_s)).position

    async def record_evaluation(
        self,
        process: str,
        release: str,
        data: str,
        data_version: str,
        measured: Sequence[Measured],
        *,
        baseline: str | None = None,
        job: str | None = None,
        timeout_s: float = 10.0,
    ) -> int:
        """Tells what was measured of a release on a version of a data set, beside a baseline's release.

        What that proves is decided from the scores, and stands in the record with them.
        """
        command = releasing.RecordEvaluation(
            process=process,
            release=release,
            data=data,
            data_version=data_version,
            measured=tuple(measured),
            baseline=baseline,
            job=job,
        )
        return (await self._of_release(command, timeout_s)).position

    async def record_drill(
        self,
        process: str,
        release: str,
        drill: str,
        outcome: Outcome | str,
        reason: str,
        *,
        timeout_s: float = 10.0,
    ) -> int:
        """Tells how a drill with a release went."""
        command = releasing.RecordDrill(
            process=process, release=release, drill=drill, outcome=Outcome(outcome), reason=reason
        )
        return (await self._of_release(command, timeout_s)).position

    async def record_policy_check(
        self,
        process: str,
        release: str,
        check: PolicyName | str,
        found: Sequence[str] = (),
        *,
        job: str | None = None,
        timeout_s: float = 10.0,
    ) -> int:
        """Tells what a policy check found in a release; nothing found is a pass."""
        command = releasing.RecordPolicyCheck(
            process=process, release=release, check=PolicyName(check), found=tuple(found), job=job
        )
        return (await self._of_release(command, timeout_s)).position

    async def check_gates(
        self,
        process: str,
        release: str = "candidate",
        *,
        scope: str = "*",
        alias: Literal["live", "candidate"] = "live",
        timeout_s: float = 10.0,
    ) -> GatesTold:
        """What the gates would say now of a promotion; nothing is recorded."""
        command = releasing.CheckGates(process=process, release=release, scope=scope, alias=alias)
        answer = await self._of_release(command, timeout_s)
        assert isinstance(answer, GatesTold)
        return answer

    async def gates(self, *, timeout_s: float = 10.0) -> dict[str, Gate]:
        """The gates of the tenant by name."""
        answer = await self._of_release(releasing.ListGates(), timeout_s)
        assert isinstance(answer, Gates)
        return answer.gates

    async def declare_gate(
        self, name: str, gate: GateSpec, reason: str = "declared", *, timeout_s: float = 10.0
    ) -> int:
        """Gives the tenant a gate, as its next version."""
        command = releasing.DeclareGate(name=name, gate=gate, reason=reason)
        return (await self._of_release(command, timeout_s)).position

    async def remove_gate(self, name: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """Ends a gate."""
        return (await self._of_release(releasing.RemoveGate(name=name, reason=reason), timeout_s)).position
