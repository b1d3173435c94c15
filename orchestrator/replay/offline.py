#!/usr/bin/env python3
"""Checks a proof of a job's history made by `writ audit prove`. Needs Python 3.11 or newer and nothing else.

    python3 writ_proof.py PROOF.json --key 'writ/3f0c92d1a87b5e64/log-0/epoch-1+...'

PUBLIC KEY is what `writ audit key` printed, and must have come to you by another way than the proof. Exit
codes: 0 the proof holds, 1 it does not, 2 it could not be read.

It shows that each record stands in the log whose tree the checkpoint signs (RFC 6962), as it was stored; that
the node has sworn that there are no others of this job up to the checkpoint; and that the checkpoint and
that oath are signed (Ed25519) by the key, or by one that it vouches for. It does not show that the node told
the truth when it stored them, nor that it shows everybody the same log: for that compare checkpoints.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import sys
from datetime import datetime, timedelta, timezone
from typing import Any, cast

FORMAT = 1


class Wrong(Exception):
    """The proof does not hold; the text says where."""


class Unreadable(Exception):
    """This is no proof."""


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a JSON object; none where it is something else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


# --- Ed25519, after the reference algorithm in RFC 8032, section 5.1.7 and 6 ----------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]


def plus(a: Point, b: Point) -> Point:
    """The sum of two points in extended coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x*y = T/Z."""
    m = (a[1] - a[0]) * (b[1] - b[0]) % P
    n = (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = n - m, d - c, d + c, n + m
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(factor: int, point: Point) -> Point:
    """A multiple of a point. Nothing here is secret, so the time that it takes may tell of it."""
    total: Point = (0, 1, 1, 0)
    while factor:
        if factor & 1:
            total = plus(total, point)
        point = plus(point, point)
        factor >>= 1
    return total


def same(a: Point, b: Point) -> bool:
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0


def point_of(encoded: bytes) -> Point | None:
    """The point that 32 bytes name; None where they name none."""
    y = int.from_bytes(encoded, "little")
    odd, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT_OF_MINUS_1 % P
    if (x * x - square) % P or (x == 0 and odd):
        return None
    if x & 1 != odd:
        x = P - x
    return x, y, 1, x * y % P


BASE = point_of((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def signature_holds(public: bytes, text: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature over a text is that of a public key."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, point = point_of(public), point_of(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if key is None or point is None or BASE is None or scalar >= ORDER:
        return False
    challenge = int.from_bytes(hashlib.sha512(signature[:32] + public + text).digest(), "little") % ORDER
    return same(times(scalar, BASE), plus(point, times(challenge, key)))


# --- signed notes ---------------------------------------------------------------------------------------


def note(content: Any, what: str) -> tuple[str, list[tuple[str, bytes]]]:
    """The text of a signed note, and its signatures: name and bytes."""
    if not isinstance(content, str) or content.count("\n\n") != 1 or not content.endswith("\n"):
        raise Wrong(f"the {what} is no signed note")
    text, signed = content.split("\n\n")
    found: list[tuple[str, bytes]] = []
    for line in signed.splitlines():
        mark, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        if mark != "\N{EM DASH}":
            raise Wrong(f"the {what} has a line that is no signature: {line[:60]!r}")
        found.append((name, unpacked(encoded, what)))
    return text + "\n", found


def unpacked(text: str, what: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Wrong(f"the {what} holds what is no base64: {text[:60]!r}") from error
    if base64.b64encode(content).decode() != text:
        raise Wrong(f"the {what} holds base64 that is not written as it must be: {text[:60]!r}")
    return content


def id_of(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4]


def is_signed(text: str, signatures: list[tuple[str, bytes]], name: str, public: bytes) -> bool:
    wanted = name, id_of(name, public)
    return any(
        signature_holds(public, text.encode(), signed[4:])
        for by, signed in signatures
        if (by, signed[:4]) == wanted
    )


def trusted_key(text: str) -> bytes:
    """The 32 bytes of a public key as `writ audit key` prints it."""
    name, _, rest = text.strip().partition("+")
    told, _, encoded = rest.partition("+")
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if len(content) != 33 or content[:1] != b"\x01" or id_of(name, content[1:]).hex() != told:
        raise Unreadable("the public key is damaged, or none: writ audit key prints one")
    return content[1:]


def keys_of(content: str, trusted: bytes) -> tuple[str, list[bytes]]:
    """The node's name and all its keys, each sworn to by the one before; one of them must be the trusted."""
    parts = content.split("\n\n")
    if len(parts) % 2:
        raise Wrong("the statements of keys are no signed notes")
    keys: list[bytes] = []
    site, before = "", "-"
    for text, signed in zip(parts[::2], parts[1::2], strict=True):
        said, signatures = note(f"{text}\n\n{signed.rstrip()}\n", "statement of a key")
        lines = said.split("\n")
        number, _, encoded = (lines[1] if len(lines) == 5 else "").partition(" ")
        public = unpacked(encoded, "statement of a key")
        site = site or hashlib.sha256(public).hexdigest()[:16]
        name = f"writ/{site}/keys"
        if lines[0] != name or number != str(len(keys) + 1) or lines[-2] != f"after {before}":
            raise Wrong(f"the statement of key {len(keys) + 1} is missing, or is another")
        if not all(is_signed(said, signatures, name, each) for each in (public, *keys[-1:])):
            raise Wrong(f"key {number} is not signed by itself and by the key before it")
        keys.append(public)
        before = hashlib.sha256(said.encode()).hexdigest()
    if trusted not in keys:
        raise Wrong("it is not of the node whose public key was given")
    return site, keys


# --- the tree -------------------------------------------------------------------------------------------


def root_from(index: int, size: int, leaf: bytes, path: list[bytes]) -> bytes | None:
    """The root to which a path leads from a leaf: RFC 9162, section 2.1.3.2."""
    if not 0 <= index < size:
        return None
    at, last, root = index, size - 1, leaf
    for step in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            root = hashlib.sha256(b"\x01" + step + root).digest()
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = hashlib.sha256(b"\x01" + root + step).digest()
        at, last = at >> 1, last >> 1
    return root if last == 0 else None


# --- the proof ------------------------------------------------------------------------------------------


def check(proof: Any, key: str) -> list[dict[str, Any]]:
    """The records that the proof proves, decoded. Raises Wrong, Unreadable."""
    trusted = trusted_key(key)
    proof = fields_of(proof)
    if proof.get("writ_proof") != FORMAT:
        raise Unreadable(f"this is no proof of format {FORMAT}")
    queue, id_, keys = proof.get("queue"), proof.get("id"), proof.get("keys")
    records: list[Any] = proof["records"] if isinstance(proof.get("records"), list) else []
    if not (isinstance(queue, str) and isinstance(id_, str) and isinstance(keys, str)):
        raise Unreadable("the proof does not say of which job it is")
    if not records:
        raise Wrong("the proof holds no record")
    site, publics = keys_of(keys, trusted)
    origin, size, root = checkpoint_of(proof, site, publics)
    partition = origin.split("/")[2].removeprefix("log-")
    leaves: list[bytes] = []
    found: list[dict[str, Any]] = []
    seq, subject = 0, ""
    for record in records:
        leaf, subject, body = record_of(record, f"{queue}~{id_}", partition, size, root)
        if record["seq"] <= seq:
            raise Wrong(f"record {record['seq']} stands behind record {seq}")
        seq = record["seq"]
        leaves.append(leaf)
        found.append(body)
    statement_holds(proof, publics, origin, size, subject, leaves)
    return found


def checkpoint_of(proof: dict[str, Any], site: str, publics: list[bytes]) -> tuple[str, int, bytes]:
    text, signatures = note(proof.get("checkpoint"), "checkpoint")
    lines = text.split("\n")
    if len(lines) != 6 or not (lines[1].isascii() and lines[1].isdigit() and len(lines[1]) < 20):
        raise Wrong("the checkpoint has not the form of one")
    origin = lines[0]
    if not origin.startswith(f"writ/{site}/log-") or origin.count("/") != 3:
        raise Wrong(f"the checkpoint is of {origin[:80]!r}, not of a log of this node")
    if not any(is_signed(text, signatures, origin, each) for each in publics):
        raise Wrong("the checkpoint is not signed by a key of this node")
    return origin, int(lines[1]), unpacked(lines[2], "checkpoint")


def record_of(
    record: Any, key: str, partition: str, size: int, root: bytes
) -> tuple[bytes, str, dict[str, Any]]:
    """The hash of a record's leaf, its subject and its body. Raises Wrong."""
    shape = {"seq": int, "subject": str, "body": str, "path": list}
    fields = fields_of(record)
    if {name: type(value) for name, value in fields.items()} != shape:
        raise Wrong("a record has not the form of one")
    seq, subject = cast(int, fields["seq"]), cast(str, fields["subject"])
    stored = cast(str, fields["body"]).encode("utf-8", "replace")
    prefix = f"writ.log.{partition}."
    about = subject.removeprefix(prefix)
    if not subject.startswith(prefix) or about.count(".") != 2 or not about.endswith(f".job.{key}"):
        raise Wrong(f"record {seq} stands under {subject[:80]!r}: it is not of this job")
    leaf = hashlib.sha256(f"\x00{seq} {about} {hashlib.sha256(stored).hexdigest()}".encode()).digest()
    path = [unpacked(str(step), f"path of record {seq}") for step in fields["path"]]
    if root_from(seq - 1, size, leaf, path) != root:
        raise Wrong(f"record {seq} does not stand in the log that the checkpoint signs")
    try:
        body = json.loads(stored)
        told = body["seq"], f"{body['tenant']}.{body['kind']}.{body['key']}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Wrong(f"record {seq} cannot be read: {error!r}") from error
    if told != (seq, about):
        raise Wrong(f"record {seq} says of itself that it is record {told[0]} of {told[1]}")
    return leaf, subject, body


def statement_holds(
    proof: dict[str, Any], publics: list[bytes], origin: str, size: int, subject: str, leaves: list[bytes]
) -> None:
    text, signatures = note(proof.get("statement"), "statement")
    name = f"{origin}/job"
    if not any(is_signed(text, signatures, name, each) for each in publics):
        raise Wrong("the statement of the job's records is not signed by a key of this node")
    digest = hashlib.sha256(b"".join(leaves)).hexdigest()
    if text != f"{name}\n{size}\nsubject {subject}\nrecords {len(leaves)}\nleaves {digest}\n":
        raise Wrong("the records are not all that the node has sworn to, or are of another checkpoint")


def main(argv: list[str] | None = None) -> int:
    """Checks a file, and prints what it proves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("proof", metavar="PROOF.json")
    parser.add_argument("--key", required=True, metavar="PUBLIC KEY", help="as `writ audit key` prints it")
    given = parser.parse_args(argv)
    try:
        with open(given.proof, encoding="utf-8") as file:
            proof = json.load(file)
        records = check(proof, given.key)
    except (OSError, ValueError, RecursionError, Unreadable) as error:
        print(f"cannot be checked: {error}", file=sys.stderr)
        return 2
    except Wrong as error:
        print(f"DOES NOT HOLD: {error}", file=sys.stderr)
        return 1
    for body in records:
        at = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=int(body["at"]))  # noqa: UP017
        events = ", ".join(str(event["type"]) for event in body["events"])
        print(f"record {body['seq']:>8}  {at.isoformat()}  {body['actor']}  {events}")
    lines = proof["checkpoint"].split("\n")
    print(f"holds: {len(records)} records of job {proof['id']} in queue {proof['queue']}, {lines[0]},")
    print(f"as signed over {lines[1]} records at {lines[3].removeprefix('time ')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
