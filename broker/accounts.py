"""Who may do what, as claims that nats-server believes: accounts, exports, mappings, permissions, limits.

Two walls stand between a principal and the log.

1. *Accounts.* The log, its streams and the JetStream API live in account `WRIT`, which no principal logs in
   to. Every principal has an account of its own, named `<tenant>.<principal>`, which imports from `WRIT` the
   subjects that carry its own name and only those its roles call for. What an account does not import does
   not exist for it, not even as the reply subject of a request. That matters, since nats-server checks no
   permission on a reply subject: in an account shared by several principals, one could have the broker send
   an answer to the inbox of another.
2. *Permissions.* The user may publish to the same subjects, token by token, and subscribe to its inboxes and
   the feed. Everything else is refused, because an allow list leaves nothing for a deny list to add.

Inside `WRIT` the connection that answers requests may publish only to `_R_.>`, the reply subjects that the
broker makes for requests from other accounts, and to the inbox on which the views of the first partition ask
those of the others; the connection that appends is another user.

Principals are admitted by `gate.py`, which gives each connection a token of an hour at most. Writ's own users
have tokens in files, so that they need nobody to answer for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from writ.schemas.ids import SYSTEM_TENANT, queue_fault, token_fault
from writ.schemas.subjects import NO_QUEUE, led_subject

from .glass import BREAK_GLASS, CONNECTS
from .keys import is_public_user_key
from .tls import TlsFiles
from .trust import SYSTEM_ACCOUNT, Trust

Role = Literal["submit", "work", "operate", "ask", "read", "store"]
"""Kinds of subjects; `read` is what `ask` is, and the feed, which holds everything of the tenant."""
ALL_ROLES: Final[frozenset[Role]] = frozenset(get_args(Role))

SERVICE_ACCOUNT: Final = "WRIT"
GATE_ACCOUNT: Final = "GATE"
HTTP_ACCOUNT: Final = "HTTP"

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""The largest message the broker takes: twice the largest record, so that a batch's answer also fits."""

AUTH_SUBJECT: Final = "$SYS.REQ.USER.AUTH"
"""Where the broker asks whether to let somebody in."""

FRONT_INBOX: Final = "_INBOX_front"
"""Where the views of other partitions answer those of the first. No principal reaches this account."""

SERVERS: Final = "$SYS.REQ.SERVER.PING.JSZ"
"""What every server of the broker answers with how its JetStream stands."""

_SHARDS: Final = "{{partition(256,%s)}}"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a user may publish to and subscribe to; None stands for every subject of its account."""

    publish: tuple[str, ...] | None
    subscribe: tuple[str, ...] | None

    def claims(self) -> dict[str, Any]:
        """As a user's token says it."""
        return {"pub": _rule(self.publish), "sub": _rule(self.subscribe)}


@dataclass(frozen=True, slots=True)
class InternalUser:
    """One of Writ's own users: its account, and what it may do there."""

    account: str
    permissions: Permissions


_HTTP_SERVICES: Final = ("writ.submit.>", "writ.control.>", "writ.query.>")
_ANYTHING: Final = Permissions(publish=None, subscribe=None)

INTERNAL_USERS: Final[Mapping[str, InternalUser]] = {
    # Appends and reads: the JetStream API, the log, the leaders' beats.
    "log": InternalUser(SERVICE_ACCOUNT, _ANYTHING),
    # Takes requests and answers them. It must not reach the log, whatever a request made it say.
    "answer": InternalUser(
        SERVICE_ACCOUNT,
        Permissions(
            publish=("_R_.>", f"{FRONT_INBOX}.>"),
            subscribe=("writ.shard.>", "writ.query.>", "writ.store.>", "_INBOX.>"),
        ),
    ),
    # Asks for principals whom the HTTP API has made sure of itself, by their tokens. Its account is its own:
    # a reply subject that it was made to name reaches no stream. It may ask in the name of anybody, as the
    # broker cannot tell whom it has made sure of.
    "http": InternalUser(
        HTTP_ACCOUNT,
        Permissions(
            publish=_HTTP_SERVICES, subscribe=("_INBOX.>", "_INBOX_http.>", "writ.feed.>", led_subject())
        ),
    ),
    # For a person, when nothing else lets anybody in. Nothing of Writ uses it, and each use is an alarm.
    BREAK_GLASS: InternalUser(SERVICE_ACCOUNT, _ANYTHING),
    # Answers for logins; the broker makes the reply subjects.
    "gate": InternalUser(GATE_ACCOUNT, Permissions(publish=("$SYS._INBOX.>",), subscribe=(AUTH_SUBJECT,))),
    # Tells the broker what the accounts are, and hears who connects.
    # It also asks each server how it keeps what it stores.
    "system": InternalUser(
        SYSTEM_ACCOUNT,
        Permissions(publish=("$SYS.REQ.CLAIMS.UPDATE", SERVERS), subscribe=("_INBOX.>", CONNECTS)),
    ),
}
"""Writ's own users, by name. A further one is a further row."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user, service or worker: its name in its tenant, its public NKeys and roles.

    `in_queues` are roles that it has in one queue alone, `verbs` single ones of an operator, in one queue or
    in all (`*`). `tokens` are the SHA-256, in hex, of those that let
    it in like a key. Raises ValueError for a name that cannot stand in a subject, a key that is no user key,
    an unknown role.
    """

    tenant: str
    name: str
    public: str
    roles: frozenset[Role]
    in_queues: frozenset[tuple[Role, str]] = frozenset()
    verbs: frozenset[tuple[str, str]] = frozenset()
    other_keys: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fault = token_fault(self.tenant, "tenant") or token_fault(self.name, "principal")
        if fault:
            raise ValueError(fault)
        if self.tenant == SYSTEM_TENANT:
            raise ValueError(f"tenant {self.tenant!r} is Writ's own; choose another name")
        for key in self.keys:
            if not is_public_user_key(key):
                raise ValueError(
                    f"public key {key!r} of principal {self.name!r} is no NKey user key; "
                    "give the 56 characters that begin with U"
                )
        for _, queue in self.in_queues:
            fault = queue_fault(queue)
            if fault and queue != NO_QUEUE:
                raise ValueError(fault)
        unknown = sorted((self.roles | {role for role, _ in self.in_queues}) - ALL_ROLES)
        if unknown:
            raise ValueError(
                f"role {unknown[0]!r} of principal {self.name!r} is unknown; "
                f"the roles are {', '.join(sorted(ALL_ROLES))}"
            )

    @property
    def account(self) -> str:
        """The name of its account; unique, because neither part can hold a dot."""
        return f"{self.tenant}.{self.name}"

    @property
    def keys(self) -> tuple[str, ...]:
        """All that let it in."""
        return (self.public, *self.other_keys)

    def services(self) -> tuple[str, ...]:
        """The request subjects its roles open, its own name pinned in each."""
        who = f"{self.tenant}.{self.name}"
        # Exactly as many tokens as the mappings take: one more would reach no shard and vanish unanswered.
        subjects: dict[Role, str] = {
            "submit": f"writ.submit.{who}.",
            "work": f"writ.lease.{who}.*.",
            "operate": f"writ.control.{who}.*.",
            "store": f"writ.store.{who}.*.",
        }
        found = [f"{subject}*" for role, subject in subjects.items() if role in self.roles]
        for role, queue in sorted(self.in_queues):
            if role in subjects and role not in self.roles:
                found.append(f"{subjects[role]}{queue}")
        if "operate" not in self.roles:
            # The broker takes no account where one import holds another.
            single = [each for each in sorted(self.verbs) if ("operate", each[1]) not in self.in_queues]
            found += [f"writ.control.{who}.{verb}.{queue}" for verb, queue in single]
        if self.roles & {"ask", "read"}:
            found.append(f"writ.query.{who}.>")
        return tuple(found)

    def streams(self) -> tuple[str, ...]:
        """The live subjects its roles let it watch."""
        watched = (f"writ.feed.{self.tenant}.>",) if "read" in self.roles else ()
        return (*watched, led_subject())

    def permissions(self) -> Permissions:
        """What its user may do inside its own account."""
        # The standard inbox is safe to give, as the account has no other principal whose answers it could
        # show, and it is what every NATS client uses by default.
        inboxes = ("_INBOX.>", f"_INBOX_{self.name}.>")
        return Permissions(publish=self.services(), subscribe=(*inboxes, *self.streams()))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """What accounts say, of whichever broker.

    `response_threshold_s` is how long a request may wait for its answer before the broker forgets the way
    back; a later answer is lost without a word. It must exceed the longest long poll. After `login_life_s`,
    an hour at most, a principal's connection breaks, and comes back by itself where it is let in still.
    """

    max_connections_per_principal: int = 1_000
    max_subscriptions_per_principal: int = 10_000
    response_threshold_s: int = 300
    login_life_s: int = 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings(AccountSettings):
    """What the configuration of a broker of our own says besides. Paths are absolute; the defaults suit one
    machine.

    `max_file_store_bytes` None leaves it to nats-server (three quarters of the free disk at start).
    """

    port: int
    store_dir: str
    log_file: str
    accounts_dir: str
    host: str = "127.0.0.1"
    server_name: str = "writ"
    sync_interval: str = "always"
    max_payload_bytes: int = MAX_PAYLOAD_BYTES
    max_pending_bytes: int = 64 * 1024 * 1024
    max_connections: int = 10_000
    max_memory_store_bytes: int = 256 * 1024 * 1024
    max_file_store_bytes: int | None = None
    write_deadline_s: int = 10
    login_timeout_s: int = 5
    tls: TlsFiles | None = None
    log_size_limit_bytes: int = 16 * 1024 * 1024

    @property
    def reached_at(self) -> str:
        """Where this machine's own connections go."""
        return "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - told apart, not bound


def render(settings: BrokerSettings, trust: Trust) -> str:
    """The text of the configuration file. It names no principal and holds no secret."""
    file_store = settings.max_file_store_bytes
    lines = [
        "# Written by Writ at every start; changes made here are lost.",
        f"listen: {_quoted(f'{settings.host}:{settings.port}')}",
        f"server_name: {_quoted(settings.server_name)}",
        *_tls(settings.tls),
        f"log_file: {_quoted(settings.log_file)}",
        f"log_size_limit: {settings.log_size_limit_bytes}",
        "logfile_max_num: 3",
        f"max_payload: {settings.max_payload_bytes}",
        f"max_pending: {settings.max_pending_bytes}",
        f"max_connections: {settings.max_connections}",
        f'write_deadline: "{settings.write_deadline_s}s"',
        "# No http port: monitoring stays off, as it answers anyone who can reach it.",
        "jetstream {",
        f"  store_dir: {_quoted(settings.store_dir)}",
        f"  sync_interval: {_quoted(settings.sync_interval)}",
        f"  max_memory_store: {settings.max_memory_store_bytes}",
        *([f"  max_file_store: {file_store}"] if file_store is not None else []),
        "}",
        f"authorization {{ timeout: {settings.login_timeout_s} }}",
        *_trusted(trust, _quoted(settings.accounts_dir)),
        "",
    ]
    return "\n".join(lines)


def render_trust(trust: Trust, issued_s: int) -> str:
    """The text of the file that a broker's own configuration includes to work for Writ.

    It names no principal and holds no secret. The folder in which the broker keeps what accounts are comes
    from its environment, `WRIT_BROKER_ACCOUNTS`.
    """
    own = own_accounts(AccountSettings(), trust, issued_s)
    lines = [
        "# Written by `writ broker trust`: whom the broker believes. The same on every server of a cluster.",
        *_trusted(trust, "$WRIT_BROKER_ACCOUNTS"),
        "# Writ's own accounts; those of principals are told to the broker by Writ.",
        "resolver_preload {",
        *[f"  {trust.account(name).public}: {token}" for name, token in own.items()],
        "}",
        "",
    ]
    return "\n".join(lines)


def _trusted(trust: Trust, accounts_dir: str) -> list[str]:
    return [
        f"operator: {trust.operator_token}",
        f"system_account: {trust.account(SYSTEM_ACCOUNT).public}",
        "# What a client shows that has no token: it lets nobody in, but has the gate asked.",
        f"default_sentinel: {_sentinel(trust)}",
        f"resolver: {{ type: full, dir: {accounts_dir} }}",
    ]


def _tls(files: TlsFiles | None) -> list[str]:
    if files is None:
        return []
    # Ours shake hands before anything is said, so that nobody in between can talk them out of TLS; clients
    # that wait for the server's first word get it in the clear after a moment, and must go on with TLS.
    named = f"cert_file: {_quoted(str(files.cert))}, key_file: {_quoted(str(files.key))}"
    return [f"tls {{ {named}, handshake_first: auto, timeout: 5 }}"]


def own_accounts(settings: AccountSettings, trust: Trust, issued_s: int) -> dict[str, str]:
    """The tokens of Writ's own accounts, by name."""
    claims: dict[str, dict[str, Any]] = {
        SYSTEM_ACCOUNT: {},
        GATE_ACCOUNT: {
            "authorization": {"auth_users": [trust.user("gate").public], "allowed_accounts": ["*"]},
        },
        SERVICE_ACCOUNT: _service_account(settings),
        HTTP_ACCOUNT: {"imports": _imports(trust, _HTTP_SERVICES, ("writ.feed.>", led_subject()))},
    }
    return {name: trust.account_token(name, each, issued_s) for name, each in claims.items()}


def principal_account(
    settings: AccountSettings, trust: Trust, principal: Principal, issued_s: int, changed_s: int = 0
) -> str:
    """The token of a principal's account. Connections that were admitted up to `changed_s` end with it."""
    claims: dict[str, Any] = {
        "imports": _imports(trust, principal.services(), principal.streams()),
        "limits": {
            "conn": settings.max_connections_per_principal,
            "subs": settings.max_subscriptions_per_principal,
        },
    }
    if changed_s:
        claims["revocations"] = {"*": changed_s}
    return trust.account_token(principal.account, claims, issued_s)


def _imports(trust: Trust, services: Sequence[str], streams: Sequence[str]) -> list[dict[str, str]]:
    account = trust.account(SERVICE_ACCOUNT).public
    found = [("service", subject) for subject in services] + [("stream", subject) for subject in streams]
    return [
        {"name": f"{kind}-{number}", "subject": subject, "account": account, "type": kind}
        for number, (kind, subject) in enumerate(found)
    ]


def closed_account(trust: Trust, name: str, issued_s: int) -> str:
    """The token of an account that nobody may use, and whose connections end."""
    return trust.account_token(name, {"limits": {"conn": 0}, "revocations": {"*": issued_s}}, issued_s)


def _sentinel(trust: Trust) -> str:
    claims = {**Permissions((), ()).claims(), "bearer_token": True}
    return trust.user_token(GATE_ACCOUNT, trust.user("sentinel").public, claims, 1)


def _service_account(settings: AccountSettings) -> dict[str, Any]:
    threshold_ns = settings.response_threshold_s * 1_000_000_000
    services = ("writ.submit.>", "writ.lease.>", "writ.control.>", "writ.query.>", "writ.store.>")
    return {
        "limits": dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1),
        "mappings": {
            **_mapping("submit", tokens=3, hashed="1,3"),
            **_mapping("lease", tokens=4, hashed="1,4"),
            **_mapping("control", tokens=4, hashed="1,4"),
        },
        "exports": [
            *(
                {"name": name, "subject": name, "type": "service", "response_threshold": threshold_ns}
                for name in services
            ),
            {"name": "feed", "subject": "writ.feed.>", "type": "stream"},
            {"name": "led", "subject": led_subject(), "type": "stream"},
        ],
    }


def _mapping(word: str, *, tokens: int, hashed: str) -> dict[str, Any]:
    """Map a request to its shard: the hash of the tenant and the queue, the wildcards named in `hashed`."""
    source = ".".join(["writ", word, *["*"] * tokens])
    kept = ".".join(f"{{{{wildcard({n})}}}}" for n in range(1, tokens + 1))
    return {source: [{"subject": f"writ.shard.{_SHARDS % hashed}.{word}.{kept}", "weight": 100}]}


def _rule(subjects: Sequence[str] | None) -> dict[str, Any]:
    if subjects is None:
        return {}
    # An empty allow list would mean "no rule", which allows everything.
    return {"allow": list(subjects)} if subjects else {"deny": [">"]}


def refuse_repeats(principals: Sequence[Principal]) -> None:
    """Raises ValueError when two principals share a name or a key: the broker could not tell them apart."""
    for what, values in (
        ("principal", [p.account for p in principals]),
        ("public key", [key for p in principals for key in p.keys]),
    ):
        seen: set[str] = set()
        for value in values:
            if value in seen:
                raise ValueError(
                    f"{what} {value!r} is given twice; each user needs a name and a key of its own"
                )
            seen.add(value)


def _quoted(text: str) -> str:
    # nats-server reads backslash escapes inside double quotes.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
