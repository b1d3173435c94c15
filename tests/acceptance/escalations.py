"""What somebody tries who wants more than they were given: families of attempts, as data.

Each attempt is something to send on a raw connection, or over HTTP, and how its refusal shows in the audit:
the verb, and what the reason or the queue names. `{me}` stands for the attacker's own name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from writ.schemas.access import OPERATIONS
from writ.schemas.ids import shard_of
from writ.schemas.principals import Role

from .access_matrix import MESSAGES

VICTIM = "owner"
SHARD = shard_of("default", "q")


class Attempt(NamedTuple):
    """`how` is publish, subscribe, trace (a header), request (answered with a refusal), login or http."""

    how: str
    subject: str
    body: bytes = b"{}"
    group: str = ""
    verb: str = ""
    """In the audit, where it is not what is tried."""

    named: str = ""
    """What the audit must name; the subject where it is empty."""


class Family(NamedTuple):
    """`roles` are what the attacker has, in `scope`; `control` is a lawful thing of the same kind."""

    name: str
    roles: tuple[Role, ...]
    attempts: tuple[Attempt, ...]
    control: Attempt
    scope: str = "*"


def _all(how: str, subjects: Iterable[str], body: bytes = b"{}") -> tuple[Attempt, ...]:
    return tuple([Attempt(how, subject, body) for subject in subjects])


JOB = b'{"task": "t"}'
OWN_SUBMIT = Attempt("request", "writ.submit.default.{me}.q", JOB)
OWN_INBOX = Attempt("subscribe", "_INBOX.mine.>")
WHOAMI = Attempt("request", "writ.query.default.{me}.whoami")
_LEASES = (
    "acquire",
    "renew",
    "start",
    "complete",
    "fail",
    "release",
    "snooze",
    "suspend",
    "progress",
    "note",
)
_CONTROLS = (
    "cancel",
    "terminate",
    "redrive",
    "drop",
    "rerun",
    "pause",
    "resume",
    "declare",
    "plan",
    "pause_queue",
)
_READS = ("jobs", "job", "records", "queues", "audit", "log", "stretch", "principals", "workers", "cost")
_API = (
    "INFO",
    "STREAM.NAMES",
    "STREAM.CREATE.X",
    "STREAM.UPDATE.WRIT_LOG_0",
    "STREAM.PURGE.WRIT_LOG_0",
    "STREAM.DELETE.WRIT_SUBMIT",
    "STREAM.MSG.DELETE.WRIT_LOG_0",
    "STREAM.MSG.GET.WRIT_LOG_0",
    "DIRECT.GET.WRIT_LOG_0",
    "CONSUMER.CREATE.WRIT_LOG_0",
    "STREAM.SNAPSHOT.WRIT_LOG_0",
    "STREAM.RESTORE.X",
)
_SYSTEM = (
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.SERVER.PING.CONNZ",
    "$SYS.REQ.SERVER.X.KICK",
    "$SYS.REQ.SERVER.X.RELOAD",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.CLAIMS.DELETE",
    "$SYS.REQ.CLAIMS.LIST",
    "$SYS.REQ.USER.AUTH",
    "$SYS.REQ.ACCOUNT.X.CONNZ",
    "$SYS.ACCOUNT.X.CLAIMS.UPDATE",
)
_GRANTED = tuple(Role)
_STORED = (
    *("put_part", "put_file", "find_file", "get_part", "list_files", "drop_file"),
    *("read_memory", "write_memory", "forget_memory", "list_memory"),
)


def _changes(role: Role) -> bytes:
    return json.dumps({"name": "{me}", "role": role.value, "scope": "*", "reason": "please"}).encode()


def _asked(*verbs: str, queue: str = "-", **fields: str) -> tuple[Attempt, ...]:
    """Requests under one's own name, for which the roles do not suffice."""
    found: list[Attempt] = []
    for verb in verbs:
        kind = OPERATIONS[verb]
        subject = f"writ.{kind}.default.{{me}}.{verb}" + ("" if kind == "query" else f".{queue}")
        body = json.dumps(MESSAGES.get(verb, {}) | fields).encode()
        found.append(Attempt("request", subject, body, "", verb, verb))
    return tuple(found)


FAMILIES: tuple[Family, ...] = (
    Family(
        "submit as another",
        (Role.SUBMITTER,),
        _all(
            "publish",
            [
                "writ.submit.default.owner.q",
                "writ.submit.default.bot.q",
                "writ.submit.default.views.q",
                "writ.submit.acme.{me}.q",
                "writ.submit.acme.owner.q",
                "writ.submit._writ.views.-",
                "writ.submit._writ.{me}.q",
                "writ.submit.{me}.default.q",
                "writ.submit.default.{me}.q.more",
                "writ.submit.default.{me}",
                "writ.submit.default.{me}x.q",
                "WRIT.submit.default.{me}.q",
            ],
            JOB,
        ),
        OWN_SUBMIT,
    ),
    Family(
        "work as another",
        (Role.WORKER,),
        _all("publish", [f"writ.lease.default.owner.{verb}.q" for verb in _LEASES]),
        Attempt("request", "writ.lease.default.{me}.withdraw.q"),
    ),
    Family(
        "operate as another",
        (Role.OPERATOR,),
        _all("publish", [f"writ.control.default.owner.{verb}.q" for verb in _CONTROLS]),
        Attempt("request", "writ.control.default.{me}.pause_queue.q", b'{"reason": "r"}'),
    ),
    Family(
        "read as another",
        (Role.VIEWER,),
        _all("publish", [f"writ.query.default.owner.{verb}" for verb in _READS]),
        WHOAMI,
    ),
    Family(
        "read another tenant",
        (Role.VIEWER,),
        _all("publish", [f"writ.query.acme.{{me}}.{verb}" for verb in _READS]),
        WHOAMI,
    ),
    Family(
        "write to the log",
        (Role.SUBMITTER,),
        _all(
            "publish",
            [
                *[
                    f"writ.log.0.default.{kind}.x"
                    for kind in ("job", "principal", "tenant", "queue", "worker")
                ],
                "writ.log.0.acme.job.q~1",
                "writ.log.1.default.job.q~1",
                "writ.feed.default.job.q~1",
                "writ.leader.0",
                "writ.leader.0.who",
            ],
        ),
        OWN_SUBMIT,
    ),
    Family(
        "past the mapping to a shard",
        (Role.SUBMITTER, Role.WORKER, Role.OPERATOR),
        _all(
            "publish",
            [
                *[f"writ.shard.{SHARD}.submit.default.{who}.q" for who in ("{me}", "owner")],
                *[f"writ.shard.{SHARD}.lease.default.{who}.acquire.q" for who in ("{me}", "owner")],
                *[f"writ.shard.{SHARD}.control.default.{who}.cancel.q" for who in ("{me}", "owner")],
                "writ.shard.0.control._writ.views.note_denial.-",
                "writ.shard.255.submit.acme.owner.q",
                "writ.control._writ.views.note_denial.-",
                "writ.control._writ.{me}.note_denial.-",
            ],
        ),
        OWN_SUBMIT,
    ),
    Family(
        "the JetStream API", (Role.SUBMITTER,), _all("publish", [f"$JS.API.{v}" for v in _API]), OWN_SUBMIT
    ),
    Family(
        "key-value and object stores",
        (Role.SUBMITTER,),
        _all(
            "publish",
            [
                "$KV.bucket.key",
                "$KV.WRIT.owner",
                "$O.WRIT.C.x",
                "$O.WRIT.M.x",
                "$JS.API.STREAM.CREATE.KV_x",
                "$JS.API.STREAM.CREATE.OBJ_x",
                "$JS.API.STREAM.INFO.KV_x",
                "$JS.API.STREAM.INFO.OBJ_WRIT",
                "$JS.API.DIRECT.GET.KV_x.$KV.x.key",
                "$JS.API.STREAM.PURGE.OBJ_WRIT",
            ],
        ),
        OWN_SUBMIT,
    ),
    Family("the system account", (Role.SUBMITTER,), _all("publish", _SYSTEM), OWN_SUBMIT),
    Family(
        "spoofed acknowledgements and replies",
        (Role.WORKER,),
        _all(
            "publish",
            [
                "$JS.ACK.WRIT_LOG_0.audit.1.1.1.1.0",
                "$JS.ACK.WRIT_SUBMIT.x.1.1.1.1.0",
                "$JS.FC.WRIT_LOG_0.x",
                "_R_.abcdef.ghijkl",
                "_INBOX.victim.1",
                "_INBOX_owner.1",
                "_INBOX_owner.reply.1",
                "$SYS._INBOX.x.y",
                "_INBOX.>",
                "_GR_.x.y.z",
            ],
        ),
        Attempt("request", "writ.lease.default.{me}.withdraw.q"),
    ),
    Family(
        "inboxes of others",
        (Role.SUBMITTER,),
        _all(
            "subscribe",
            [
                "_INBOX_owner.>",
                "_INBOX_owner.*",
                "_INBOX_http.>",
                "_INBOX_bot.x",
                "_INBOX_*.>",
                "_R_.>",
                "_R_.*.*",
                "$SYS._INBOX.>",
                "_GR_.>",
                "_INBOX_owner",
            ],
        ),
        OWN_INBOX,
    ),
    Family(
        "the feed without a role for it, and of others",
        (Role.SUBMITTER,),
        _all(
            "subscribe",
            [
                "writ.feed.>",
                "writ.feed.default.>",
                "writ.feed.default.job.*",
                "writ.feed.acme.>",
                "writ.feed.*.job.>",
                "writ.feed.*.*.*",
                "writ.feed._writ.>",
                "writ.*.default.job.>",
                "*.feed.default.>",
                "writ.feed.default.principal.{me}",
            ],
        ),
        OWN_INBOX,
    ),
    Family(
        "the feed of another tenant, as an auditor",
        (Role.AUDITOR,),
        _all(
            "subscribe",
            [
                "writ.feed.>",
                "writ.feed.acme.>",
                "writ.feed.acme.job.*",
                "writ.feed.*.job.>",
                "writ.feed.*.>",
                "writ.feed._writ.>",
                "*.feed.default.>",
                "writ.*.default.>",
                "writ.feed.default",
                "writ.feed.*.*.*",
            ],
        ),
        Attempt("subscribe", "writ.feed.default.>"),
    ),
    Family(
        "wildcards",
        (Role.SUBMITTER, Role.WORKER, Role.OPERATOR, Role.VIEWER),
        _all(
            "subscribe",
            [
                ">",
                "*",
                "*.>",
                "*.*.>",
                "writ.>",
                "writ.*.default.>",
                "writ.submit.>",
                "writ.lease.>",
                "writ.control.>",
                "writ.query.>",
                "writ.log.>",
                "writ.shard.>",
                "$JS.>",
                "$SYS.>",
                "$KV.>",
            ],
        ),
        OWN_INBOX,
    ),
    Family(
        "theft through a queue group",
        (Role.WORKER,),
        tuple(
            [
                Attempt("subscribe", subject, group=group)
                for subject, group in (
                    ("writ.shard.*.lease.>", "writ"),
                    ("writ.shard.*.control.>", "writ"),
                    ("writ.shard.*.submit.>", "writ"),
                    ("writ.query.>", "writ"),
                    ("$SYS.REQ.USER.AUTH", "writ-gate"),
                    ("writ.lease.default.owner.>", "w"),
                    ("writ.lease.default.{me}.>", "w"),
                    ("writ.submit.default.{me}.*", "w"),
                    ("writ.leader.0.who", "w"),
                    ("$SYS.REQ.CLAIMS.UPDATE", "w"),
                )
            ]
        ),
        Attempt("subscribe", "_INBOX.mine.>", group="g"),
    ),
    Family(
        "a header that sends a trace elsewhere",
        (Role.SUBMITTER,),
        _all(
            "trace",
            [
                "writ.submit.default.owner.q",
                "writ.log.0.default.job.x",
                "_INBOX_owner.x",
                "_INBOX.victim.1",
                "$JS.API.STREAM.PURGE.WRIT_LOG_0",
                "$SYS.REQ.SERVER.PING",
                "writ.feed.default.job.x",
                "writ.control.default.owner.cancel.q",
                "writ.leader.0",
                "writ.query.default.owner.jobs",
            ],
        ),
        OWN_SUBMIT,
    ),
    Family(
        "queues of others",
        (Role.SUBMITTER, Role.WORKER, Role.OPERATOR),
        (
            Attempt("publish", "writ.submit.default.{me}.bank", JOB),
            Attempt("publish", "writ.submit.default.{me}.q/x", JOB),
            *_all("publish", [f"writ.lease.default.{{me}}.{verb}.bank" for verb in _LEASES[:5]]),
            *_all("publish", [f"writ.control.default.{{me}}.{verb}.bank" for verb in _CONTROLS[:5]]),
        ),
        OWN_SUBMIT,
        scope="q",
    ),
    Family(
        "a role for oneself",
        (Role.OPERATOR,),
        tuple(
            [
                Attempt(
                    "request", "writ.control.default.{me}.grant.-", _changes(role), "", "grant", role.value
                )
                for role in _GRANTED
            ]
        ),
        WHOAMI,
    ),
    Family(
        "the owner's messages replayed under one's own name",
        (Role.OPERATOR,),
        tuple(
            [
                Attempt(
                    "request",
                    f"writ.control.default.{{me}}.{verb}.-",
                    json.dumps(body).encode(),
                    "",
                    verb,
                    verb,
                )
                for verb, body in (
                    ("create_principal", {"name": "mine", "kind": "service", "reason": "r"}),
                    ("add_key", {"name": "owner", "key": "U" * 56, "reason": "r"}),
                    ("remove_key", {"name": "owner", "key": "U" * 56, "reason": "r"}),
                    ("issue_token", {"name": "owner", "token": "t", "digest": "0" * 64}),
                    ("revoke_token", {"name": "owner", "token": "t", "reason": "r"}),
                    ("ungrant", {"name": "owner", "role": "owner", "scope": "*", "reason": "r"}),
                    ("approve_access", {"name": "{me}", "number": 1, "reason": "r"}),
                    ("decline_access", {"name": "owner", "number": 1, "reason": "r"}),
                    ("revoke_principal", {"name": "owner", "reason": "r"}),
                    ("restore_principal", {"name": "owner", "reason": "r"}),
                )
            ]
        ),
        WHOAMI,
    ),
    Family(
        "logins that are none",
        (Role.SUBMITTER,),
        _all(
            "login",
            [
                "an unknown key",
                "a removed key",
                "another's key signed by one's own",
                "a signature of another nonce",
                "no signature",
                "another's name and a password",
                "a made up token",
                "a revoked token",
                "one's own account's word",
                "the word of an account without a key",
                "a forged operator",
                "the sentinel with nothing beside it",
            ],
        ),
        OWN_SUBMIT,
    ),
    Family(
        "path and header tricks over HTTP",
        (Role.VIEWER,),
        tuple(
            [
                Attempt("http", f"/v1/queues/h{number}/jobs{end}", JOB, header, "submit", f"h{number}")
                for number, (end, header) in enumerate(
                    (
                        ("", "X-Forwarded-User: owner"),
                        ("", "X-Writ-Principal: owner"),
                        ("", "X-Remote-User: owner"),
                        ("", "X-Principal: owner"),
                        ("", "X-Tenant: acme"),
                        ("", "X-Original-URL: /healthz"),
                        ("", "X-HTTP-Method-Override: GET"),
                        ("", "X-Forwarded-For: 127.0.0.1"),
                        ("", "Cookie: principal=owner"),
                        ("", "Forwarded: for=127.0.0.1;proto=https"),
                    )
                )
            ]
        ),
        Attempt("http", "/v1/jobs"),
    ),
    Family(
        "releases, aliases and gates, by who operates",
        (Role.OPERATOR,),
        _asked(
            *("publish_release", "keep_package", "promote_release", "revoke_release", "unfreeze_release"),
            *("start_canary", "end_canary", "declare_gate", "remove_gate", "package"),
        ),
        _asked("list_processes")[0],
    ),
    Family(
        "approvals and evidence of one's own",
        (Role.OPERATOR,),
        (
            *_asked("approve", "reject", queue="q"),
            *_asked("approve_release", "approve_promotion", "approve_access", "decline_access"),
            *_asked("record_evaluation", "record_drill", "record_policy_check"),
        ),
        Attempt("request", "writ.control.default.{me}.pause_queue.q", b'{"reason": "r"}'),
    ),
    Family(
        "the values of assets and secrets",
        (Role.OPERATOR,),
        (
            *[each for n in range(4) for each in _asked("get_asset", name=f"secret-{n}")],
            *[each for n in range(4) for each in _asked("remove_asset", name=f"secret-{n}")],
            *_asked("set_asset"),
        ),
        _asked("list_assets")[0],
    ),
    Family(
        "the files and memory of others",
        (Role.SUBMITTER, Role.WORKER),
        _all(
            "publish",
            [
                *[f"writ.store.default.owner.{verb}.q" for verb in _STORED],
                "writ.store.acme.{me}.get_part.q",
                "writ.store._writ.{me}.get_part.q",
            ],
        ),
        Attempt("request", "writ.store.default.{me}.list_memory.q", b'{"agent": "a"}'),
    ),
    Family(
        "files and memory without a role for them",
        (Role.SUBMITTER,),
        tuple(
            [
                each
                for queue in ("q", "bank")
                for each in _asked(*_STORED[4:], queue=queue)
                if not (queue == "bank" and "list_files" in each.subject)
            ]
        ),
        Attempt("request", "writ.store.default.{me}.find_file.q", b'{"sha256": "%b"}' % (b"0" * 64)),
    ),
    Family(
        "the buckets behind files, memory and assets",
        (Role.SUBMITTER, Role.WORKER),
        _all(
            "publish",
            [
                f"{subject}{bucket}"
                for bucket in ("WRIT_FILES", "WRIT_MEMORY", "WRIT_ASSETS")
                for subject in ("$JS.API.STREAM.INFO.KV_", "$JS.API.STREAM.PURGE.OBJ_", "$KV.", "$O.")
            ],
        ),
        OWN_SUBMIT,
    ),
    Family(
        "the fleet, the queues and the schedules, by who releases",
        (Role.RELEASER,),
        (
            *_asked("drain_worker", "undrain_worker"),
            *_asked("pause_queue", "drain_queue", "resume_queue", queue="q", reason="r"),
            *_asked("pause_schedule", "resume_schedule", "trigger_schedule", queue="q"),
            *_asked("backfill_schedule", queue="q"),
        ),
        Attempt("request", "writ.query.default.{me}.queues"),
    ),
    Family(
        "sessions of others",
        (Role.OPERATOR,),
        tuple(
            [
                each
                for session in ("a", "b", "c", "d")
                for each in _asked("start_session", "end_session", name="owner", session=session)
            ]
        ),
        WHOAMI,
    ),
    Family(
        "what belongs to hosts and privacy officers, by an admin",
        (Role.ADMIN,),
        (
            *[each for name in ("x", "y", "z") for each in _asked("create_tenant", name=name)],
            *[each for name in ("default", "x") for each in _asked("set_quotas", name=name)],
            *_asked("erase", "place_hold", "lift_hold", queue="q"),
            *_asked("list_tenants", "list_shards"),
            *_asked("move_shard"),
        ),
        Attempt("request", "writ.query.default.{me}.principals"),
    ),
    Family(
        "sessions and their words made up, over HTTP",
        (Role.VIEWER,),
        tuple(
            [
                Attempt("http", f"/v1/queues/s{number}/jobs", JOB, header, "submit", f"s{number}")
                for number, header in enumerate(
                    (
                        "Cookie: __Host-writ=made-up",
                        "Cookie: writ=made-up; principal=owner",
                        "Writ-CSRF: made-up",
                        "Forwarded: for=127.0.0.1;by=owner",
                        "Sec-Fetch-Site: cross-site",
                        "Sec-Fetch-Site: same-origin",
                        "Referer: http://127.0.0.1/console",
                        "X-Writ-Session: owner",
                    )
                )
            ]
        ),
        Attempt("http", "/v1/jobs"),
    ),
    Family(
        "strangers at the HTTP API, and pages and names of others",
        (Role.VIEWER,),
        (
            *[
                Attempt("http", "/v1/jobs", JOB, f"Origin: {origin}", "request", origin)
                for origin in ("http://evil.example", "https://127.0.0.1", "null", "http://127.0.0.1:1")
            ],
            *[
                Attempt("http", "/v1/jobs", JOB, f"Host: {host}", "request", host)
                for host in ("evil.example", "127.0.0.1.evil.example", "writ.example:80", "169.254.169.254")
            ],
            Attempt("http", "/v1/jobs", JOB, f"X-Long: {'x' * 17_000}", "request", "http.head"),
            *[
                Attempt("http", "/v1/jobs", JOB, f"Authorization: {shown}", "login", "http.login")
                for shown in ("Bearer made-up", "Bearer old", "Basic b3duZXI6b3duZXI=", "Bearer", "owner")
            ],
        ),
        Attempt("http", "/v1/jobs"),
    ),
)
