"""A NATS client in plain sockets: what somebody without our code, or any NATS library, would write.

It speaks the protocol of https://docs.nats.io/reference/reference-protocols/nats-protocol and signs the
server's nonce with the Ed25519 key in an NKey seed file. Nothing of Writ is imported here. Subjects, headers
and bodies are bytes, sent as they are given, so that the tests can also say what no library lets them say.

As a program, `raw.py QUEUE COUNT BODY...` publishes each body to the submit subject of the principal that
NATS_URL, NATS_NKEY, WRIT_TENANT and WRIT_PRINCIPAL name: the first without asking for an acknowledgement, the
others with. Then it watches the feed until COUNT jobs of the queue have completed, and prints what it saw,
one JSON document a line.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from nacl.signing import SigningKey

_CONNECT = {
    "verbose": False,
    "pedantic": False,
    "lang": "none",
    "version": "0",
    "protocol": 1,
    "headers": True,
}


class Said(NamedTuple):
    """One message from the server."""

    subject: bytes
    sid: int
    reply: bytes
    headers: bytes
    body: bytes


class ServerError(Exception):
    """The server said -ERR."""


def signing_key(seed: str) -> SigningKey:
    """The Ed25519 key in an NKey seed: base32 of two prefix bytes, 32 of seed and a checksum."""
    raw = base64.b32decode(seed.strip() + "=" * (-len(seed.strip()) % 8))
    return SigningKey(raw[2:34])


def credentials(path: Path) -> tuple[str, str]:
    """A token, empty where there is none, and a seed. A credentials file has each below a heading."""
    lines = path.read_text().split("\n")
    token, seed = [lines[at + 1] for at, line in enumerate(lines) if line.startswith("-----BEGIN")] or (
        "",
        lines[0],
    )
    return token, seed


def public_nkey(key: SigningKey) -> str:
    """The public half of a user's key as NATS writes it: prefix U, key, CRC-16/XMODEM."""
    raw = bytes([20 << 3]) + bytes(key.verify_key)
    crc = 0
    for byte in raw:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return base64.b32encode(raw + crc.to_bytes(2, "little")).rstrip(b"=").decode()


class Raw:
    """A connection. Use it as a context manager."""

    def __init__(self, url: str, seed_file: str | Path, timeout_s: float = 15.0) -> None:
        where = urlsplit(url)
        assert where.hostname is not None
        assert where.port is not None
        self._socket = socket.create_connection((where.hostname, where.port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = self._socket.makefile("rb")
        self.errors: list[str] = []
        self.info = json.loads(self._read.readline().removeprefix(b"INFO "))
        token, seed = credentials(Path(seed_file))
        key = signing_key(seed)
        signature = key.sign(self.info["nonce"].encode()).signature
        login = {
            "nkey": public_nkey(key),
            **({"jwt": token} if token else {}),
            "sig": base64.urlsafe_b64encode(signature).rstrip(b"=").decode(),
        }
        self._sids = 0
        self._pending: list[Said] = []
        self.send(b"CONNECT " + json.dumps(_CONNECT | login).encode() + b"\r\n")
        self.ping()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._read.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self._socket.sendall(data)

    def publish(self, subject: bytes, body: bytes, reply: bytes = b"", headers: bytes | None = None) -> None:
        """One message; `headers` is the whole block with its first line and its end."""
        self.send(message(subject, body, reply, headers))

    def subscribe(self, subject: bytes) -> int:
        self._sids += 1
        self.send(b"SUB %s %d\r\n" % (subject, self._sids))
        return self._sids

    def ping(self) -> None:
        """Returns when the server has dealt with everything sent before. Raises ServerError."""
        self.send(b"PING\r\n")
        while (said := self._line()) != b"PONG":
            if isinstance(said, Said):
                self._pending.append(said)
        if self.errors:
            raise ServerError(self.errors.pop(0))

    def waiting(self) -> list[Said]:
        """The messages that have come so far."""
        self.ping()
        waiting, self._pending = self._pending, []
        return waiting

    def next(self) -> Said:
        """The next message. Raises ServerError, TimeoutError and ConnectionError."""
        if self._pending:
            return self._pending.pop(0)
        while True:
            said = self._line()
            if isinstance(said, Said):
                return said
            if self.errors:
                raise ServerError(self.errors.pop(0))

    def request(self, subject: bytes, body: bytes, headers: bytes | None = None) -> bytes:
        """The body of the first answer."""
        inbox = b"_INBOX.%s.%d" % (base64.b32encode(os.urandom(10)).rstrip(b"="), self._sids)
        sid = self.subscribe(inbox)
        self.publish(subject, body, inbox, headers)
        others: list[Said] = []
        while (said := self.next()).sid != sid:
            others.append(said)
        self._pending = others + self._pending
        self.send(b"UNSUB %d\r\n" % sid)
        if said.headers.startswith(b"NATS/1.0 503"):
            raise ConnectionError(f"nobody answers {subject!r}")
        return said.body

    def _line(self) -> Said | bytes:
        """One operation of the server: a message, or the verb of a PONG or an error."""
        while True:
            line = self._read.readline()
            if not line:
                raise ConnectionError("; ".join(self.errors) or "the server closed the connection")
            verb, _, rest = line.rstrip(b"\r\n").partition(b" ")
            match verb:
                case b"PING":
                    self.send(b"PONG\r\n")
                case b"PONG":
                    return verb
                case b"-ERR":
                    self.errors.append(rest.decode())
                    return verb
                case b"MSG" | b"HMSG":
                    return self._message(rest, headed=verb == b"HMSG")
                case _:
                    pass  # INFO, +OK

    def _message(self, line: bytes, *, headed: bool) -> Said:
        parts = line.split(b" ")
        total = int(parts.pop())
        head = int(parts.pop()) if headed else 0
        content = self._read.read(total + 2)[:-2]
        reply = parts[2] if len(parts) == 3 else b""
        return Said(parts[0], int(parts[1]), reply, content[:head], content[head:])


def message(subject: bytes, body: bytes, reply: bytes = b"", headers: bytes | None = None) -> bytes:
    """A PUB or HPUB, ready to send."""
    to = subject + b" " + reply if reply else subject
    if headers is None:
        return b"PUB %s %d\r\n%s\r\n" % (to, len(body), body)
    return b"HPUB %s %d %d\r\n%s%s\r\n" % (to, len(headers), len(headers) + len(body), headers, body)


def main() -> None:
    queue, count, *bodies = sys.argv[1:]
    tenant, principal = os.environ["WRIT_TENANT"], os.environ["WRIT_PRINCIPAL"]
    subject = f"writ.submit.{tenant}.{principal}.{queue}".encode()
    with Raw(os.environ["NATS_URL"], os.environ["NATS_NKEY"]) as nats:
        feed = nats.subscribe(f"writ.feed.{tenant}.job.*".encode())
        nats.ping()
        for index, body in enumerate(bodies):
            if index == 0:
                nats.publish(subject, body.encode())
            else:
                print(json.dumps({"stored": json.loads(nats.request(subject, body.encode()))["seq"]}))
        completed = 0
        while completed < int(count):
            said = nats.next()
            if said.sid != feed:
                continue
            record = json.loads(said.body)
            for event in record["events"]:
                if event["type"] == "job_completed" and record["key"].startswith(f"{queue}~"):
                    completed += 1
                    job_id = record["key"].removeprefix(f"{queue}~")
                    print(json.dumps({"completed": job_id, "output": event["data"]["output"]["plain"]}))


if __name__ == "__main__":
    main()
