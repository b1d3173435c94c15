"""Who may do what, as nats-server configuration: accounts, exports, subject mappings, permissions, limits.

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
broker makes for requests from other accounts; the connection that appends is another user.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from writ.schemas.ids import SYSTEM_TENANT, token_fault

from .keys import is_public_user_key

Role = Literal["submit", "work", "operate", "ask", "read"]
"""Kinds of subjects; `read` is what `ask` is, and the feed, which holds everything of the tenant."""
ALL_ROLES: Final[frozenset[Role]] = frozenset(get_args(Role))

SERVICE_ACCOUNT: Final = "WRIT"

MAX_PAYLOAD_BYTES: Final = 1024 * 1024
"""The largest message the broker takes: twice the largest record, so that a batch's answer also fits."""

_SHARDS: Final = "{{partition(256,%s)}}"


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a user may publish to and subscribe to; None stands for every subject of its account."""

    publish: tuple[str, ...] | None
    subscribe: tuple[str, ...] | None


INTERNAL_USERS: Final[Mapping[str, Permissions]] = {
    # Appends and reads: the JetStream API, the log, the leaders' beats.
    "log": Permissions(publish=None, subscribe=None),
    # Takes requests and answers them. It must not reach the log, whatever a request made it say.
    "answer": Permissions(
        publish=("_R_.>",),
        subscribe=("writ.shard.>", "writ.query.>", "_INBOX.>"),
    ),
}
"""The users of account `WRIT`, by name. A further one is a further row."""

COMPONENTS: Final = ("http",)
"""Parts of Writ that ask for principals whom they have made sure of themselves, by their API tokens.

Each has an account of its own too, with the subjects of all tenants: a reply subject that it was made to name
reaches no stream. It may ask in the name of anybody, as the broker cannot tell whom it has made sure of.
"""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated user, service or worker: its name in its tenant, its public NKey and its roles.

    Raises ValueError for a name that cannot stand in a subject, a key that is no user key, an unknown role.
    """

    tenant: str
    name: str
    public: str
    roles: frozenset[Role]

    def __post_init__(self) -> None:
        fault = token_fault(self.tenant, "tenant") or token_fault(self.name, "principal")
        if fault:
            raise ValueError(fault)
        if self.tenant == SYSTEM_TENANT:
            raise ValueError(f"tenant {self.tenant!r} is Writ's own; choose another name")
        if not is_public_user_key(self.public):
            raise ValueError(
                f"public key {self.public!r} of principal {self.name!r} is no NKey user key; "
                "give the 56 characters that begin with U"
            )
        unknown = sorted(self.roles - ALL_ROLES)
        if unknown:
            raise ValueError(
                f"role {unknown[0]!r} of principal {self.name!r} is unknown; "
                f"the roles are {', '.join(sorted(ALL_ROLES))}"
            )

    @property
    def account(self) -> str:
        """The name of its account; unique, because neither part can hold a dot."""
        return f"{self.tenant}.{self.name}"

    def services(self) -> tuple[str, ...]:
        """The request subjects its roles open, its own name pinned in each."""
        who = f"{self.tenant}.{self.name}"
        # Exactly as many tokens as the mappings take: one more would reach no shard and vanish unanswered.
        subjects: dict[Role, str] = {
            "submit": f"writ.submit.{who}.*",
            "work": f"writ.lease.{who}.*.*",
            "operate": f"writ.control.{who}.*.*",
            "ask": f"writ.query.{who}.>",
        }
        roles = self.roles | {"ask"} if "read" in self.roles else self.roles
        return tuple(subject for role, subject in subjects.items() if role in roles)

    def streams(self) -> tuple[str, ...]:
        """The live subjects its roles let it watch."""
        return (f"writ.feed.{self.tenant}.>",) if "read" in self.roles else ()

    def permissions(self) -> Permissions:
        """What its user may do inside its own account."""
        # The standard inbox is safe to give, as the account has no other principal whose answers it could
        # show, and it is what every NATS client uses by default.
        inboxes = ("_INBOX.>", f"_INBOX_{self.name}.>")
        return Permissions(publish=self.services(), subscribe=(*inboxes, *self.streams()))


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """What the configuration says besides accounts. Paths are absolute; the defaults suit one machine.

    `max_file_store_bytes` None leaves it to nats-server (three quarters of the free disk at start).
    `response_threshold_s` is how long a request may wait for its answer before the broker forgets the way
    back; a later answer is lost without a word. It must exceed the longest long poll.
    """

    port: int
    store_dir: str
    log_file: str
    host: str = "127.0.0.1"
    server_name: str = "writ"
    sync_interval: str = "always"
    max_payload_bytes: int = MAX_PAYLOAD_BYTES
    max_pending_bytes: int = 64 * 1024 * 1024
    max_connections: int = 10_000
    max_connections_per_principal: int = 1_000
    max_subscriptions_per_principal: int = 10_000
    max_memory_store_bytes: int = 256 * 1024 * 1024
    max_file_store_bytes: int | None = None
    write_deadline_s: int = 10
    response_threshold_s: int = 300
    log_size_limit_bytes: int = 16 * 1024 * 1024


def render(
    settings: BrokerSettings,
    internal_keys: Mapping[str, str],
    principals: Sequence[Principal],
) -> str:
    """The text of the configuration file.

    `internal_keys` gives the public key of every name in `INTERNAL_USERS`, and of those of `COMPONENTS` that
    are to be let in. Raises ValueError when one is missing, or when two principals share a name or two users
    a key: the broker could not tell them apart.
    """
    missing = sorted(INTERNAL_USERS.keys() - internal_keys.keys())
    if missing:
        raise ValueError(f"no public key for internal user {missing[0]!r}; give one for each of them")
    _refuse_repeats("principal", [p.account for p in principals])
    _refuse_repeats("public key", [*internal_keys.values(), *(p.public for p in principals)])
    accounts = [_service_account(settings, internal_keys)]
    accounts += [
        _component_account(name, internal_keys[name]) for name in COMPONENTS if name in internal_keys
    ]
    accounts += [_principal_account(settings, principal) for principal in principals]
    return "\n".join([_server(settings), "accounts {", *accounts, "}", ""])


def _refuse_repeats(what: str, values: Collection[str]) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value!r} is given twice; each user needs a name and a key of its own")
        seen.add(value)


def _server(settings: BrokerSettings) -> str:
    file_store = settings.max_file_store_bytes
    lines = [
        "# Written by Writ at every start; changes made here are lost.",
        f"listen: {_quoted(f'{settings.host}:{settings.port}')}",
        f"server_name: {_quoted(settings.server_name)}",
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
    ]
    return "\n".join(lines)


def _service_account(settings: BrokerSettings, keys: Mapping[str, str]) -> str:
    threshold = f'response_threshold: "{settings.response_threshold_s}s"'
    services = ("writ.submit.>", "writ.lease.>", "writ.control.>", "writ.query.>")
    mappings = (
        _mapping("submit", tokens=3, hashed="1,3"),
        _mapping("lease", tokens=4, hashed="1,4"),
        _mapping("control", tokens=4, hashed="1,4"),
    )
    lines = [
        f"  {SERVICE_ACCOUNT}: {{",
        "    jetstream: enabled",
        "    users: [",
        *(f"      {_user(keys[name], permissions)}" for name, permissions in INTERNAL_USERS.items()),
        "    ]",
        "    mappings: {",
        *(f"      {line}" for line in mappings),
        "    }",
        "    exports: [",
        *(f"      {{service: {_quoted(subject)}, {threshold}}}" for subject in services),
        f"      {{stream: {_quoted('writ.feed.>')}}}",
        "    ]",
        "  }",
    ]
    return "\n".join(lines)


def _mapping(word: str, *, tokens: int, hashed: str) -> str:
    """Map a request to its shard: the hash of the tenant and the queue, the wildcards named in `hashed`."""
    source = ".".join(["writ", word, *["*"] * tokens])
    kept = ".".join(f"{{{{wildcard({n})}}}}" for n in range(1, tokens + 1))
    return f"{_quoted(source)}: {_quoted(f'writ.shard.{_SHARDS % hashed}.{word}.{kept}')}"


def _component_account(name: str, public: str) -> str:
    services = ("writ.submit.>", "writ.control.>", "writ.query.>")
    permissions = Permissions(publish=services, subscribe=("_INBOX.>", f"_INBOX_{name}.>", "writ.feed.>"))
    lines = [
        f"  {_quoted(f'{SYSTEM_TENANT}.{name}')}: {{",
        "    users: [",
        f"      {_user(public, permissions)}",
        "    ]",
        "    imports: [",
        *(f"      {_import('service', subject)}" for subject in services),
        f"      {_import('stream', 'writ.feed.>')}",
        "    ]",
        "  }",
    ]
    return "\n".join(lines)


def _principal_account(settings: BrokerSettings, principal: Principal) -> str:
    lines = [
        f"  {_quoted(principal.account)}: {{",
        f"    limits: {{max_connections: {settings.max_connections_per_principal}, "
        f"max_subscriptions: {settings.max_subscriptions_per_principal}}}",
        "    users: [",
        f"      {_user(principal.public, principal.permissions())}",
        "    ]",
        "    imports: [",
        *(f"      {_import('service', subject)}" for subject in principal.services()),
        *(f"      {_import('stream', subject)}" for subject in principal.streams()),
        "    ]",
        "  }",
    ]
    return "\n".join(lines)


def _import(kind: str, subject: str) -> str:
    return f"{{{kind}: {{account: {SERVICE_ACCOUNT}, subject: {_quoted(subject)}}}}}"


def _user(public: str, permissions: Permissions) -> str:
    parts = [f"nkey: {public}"]
    allowed = [
        f"{verb}: {{{_rule(subjects)}}}"
        for verb, subjects in (("publish", permissions.publish), ("subscribe", permissions.subscribe))
        if subjects is not None
    ]
    if allowed:
        parts.append(f"permissions: {{{', '.join(allowed)}}}")
    return f"{{{', '.join(parts)}}}"


def _rule(subjects: Sequence[str]) -> str:
    # An empty allow list would mean "no rule", which allows everything.
    if not subjects:
        return 'deny: [">"]'
    return f"allow: [{', '.join(map(_quoted, subjects))}]"


def _quoted(text: str) -> str:
    # nats-server reads backslash escapes inside double quotes.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
