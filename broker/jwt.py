"""Ed25519 keys and JSON web tokens as nats-server knows them: an NKey signs the header and the claims.

Only what an operator, its accounts and their users take; no library for it is kept up in Python.
Source: the NATS JWT specification (ADR-14) and NKeys (ADR-1), https://github.com/nats-io/nats-architecture-and-design.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from enum import IntEnum
from functools import cached_property
from typing import Any, Final

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

_HEADER: Final = b'{"typ":"JWT","alg":"ed25519-nkey"}'
_PUBLIC_BYTES: Final = 35
"""Of a public NKey: the prefix, the key, two of checksum."""


class KeyKind(IntEnum):
    """What a key stands for: the first byte of a public NKey, which makes its first letter O, A, U or N."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3
    SERVER = 13 << 3


class Signer:
    """A private key of 32 bytes, and what it stands for."""

    def __init__(self, kind: KeyKind, secret: bytes) -> None:
        self._kind = kind
        self.secret = secret
        self._key = SigningKey(secret)

    @cached_property
    def public(self) -> str:
        """The public key, 56 characters."""
        return _base32(_checked(bytes([self._kind]) + bytes(self._key.verify_key)))

    @property
    def seed(self) -> str:
        """The private key as clients keep it in a file, 58 characters that begin with S."""
        first = bytes([18 << 3 | self._kind >> 5, (self._kind & 31) << 3])
        return _base32(_checked(first + self.secret))

    def sign(self, data: bytes) -> bytes:
        return bytes(self._key.sign(data).signature)

    def token(self, claims: dict[str, Any], issued_s: int) -> str:
        """The claims, signed by this key at `issued_s` seconds since 1970."""
        body = {**claims, "iss": self.public, "iat": issued_s}
        body["jti"] = _base32(hashlib.sha256(msgspec.json.encode(body)).digest())
        signed = _base64(_HEADER) + b"." + _base64(msgspec.json.encode(body))
        return (signed + b"." + _base64(self.sign(signed))).decode()


def signer_in(seed: str) -> Signer:
    """The key in a seed. Raises ValueError where it is none."""
    raw = _unchecked(seed, _PUBLIC_BYTES + 1)
    if raw[0] & 0xF8 != 18 << 3:
        raise ValueError("this is no NKey seed; one begins with S")
    return Signer(KeyKind((raw[0] & 7) << 5 | raw[1] >> 3), raw[2:])


def claims_in(token: str) -> dict[str, Any]:
    """The claims of a token, once its signature is found to be that of the key it names as its issuer.

    Raises ValueError where anything about it is wrong.
    """
    try:
        signed, _, signature = token.rpartition(".")
        claims: dict[str, Any] = msgspec.json.decode(_unbase64(signed.partition(".")[2]))
        if not is_signed(str(claims["iss"]), signed.encode(), signature):
            raise ValueError("the token's signature is not its issuer's")
    except (KeyError, TypeError, msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"this is no token of NATS: {error}") from None
    return claims


def is_signed(public: str, data: bytes, signature: str) -> bool:
    """Whether a signature (base64, in either alphabet) of `data` is that of a public NKey."""
    try:
        VerifyKey(_unchecked(public, _PUBLIC_BYTES)[1:]).verify(data, _unbase64(signature))
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def _checked(raw: bytes) -> bytes:
    return raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")


def _unchecked(text: str, size_bytes: int) -> bytes:
    """The bytes without their checksum. Raises ValueError."""
    raw = base64.b32decode(text + "=" * (-len(text) % 8))
    if len(raw) != size_bytes or _checked(raw[:-2]) != raw:
        raise ValueError("this is no NKey: its length or its checksum is wrong")
    return raw[:-2]


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).rstrip(b"=").decode()


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _unbase64(text: str) -> bytes:
    plain = text.replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
