"""TLS of the broker: certificates of our own making or yours, and what a client checks them by.

    <directory>/tls/   ca.key, server.key    private keys (mode 0600)
                       ca.pem, server.pem    the authority, and the broker's certificate for its names
    <directory>/keys/ca.pem                  the authority again: whoever has a key file has it beside it

Making certificates takes the package `cryptography` (`pip install writ-orchestrator[tls]`); with certificates
of your own nothing but Python is needed.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .keys import DIRECTORY_MODE, SEED_MODE

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CA_FILE: Final = "ca.pem"
AUTHORITY_DAYS: Final = 3_650
SERVER_DAYS: Final = 397
RENEW_DAYS: Final = 30
"""A certificate that ends sooner is made anew at a start, by the same authority."""


class TlsError(Exception):
    """Certificates cannot be had or used; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The broker's certificate with its chain, its private key, and the authority to check it by."""

    cert: Path
    key: Path
    ca: Path

    def check(self) -> None:
        """Raises TlsError where a file cannot be read, or certificate and key do not belong together."""
        for path in (self.cert, self.key, self.ca):
            if not path.is_file():
                raise TlsError(
                    f"{path}: there is no such file; a certificate, its key and its authority are needed"
                )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(f"certificate {self.cert} and key {self.key} cannot be used: {error}") from error
        client_context(self.ca)


def client_context(ca: Path) -> ssl.SSLContext:
    """What a client checks the broker's certificate with. Raises TlsError for an unusable file."""
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (ssl.SSLError, OSError) as error:
        raise TlsError(
            f"authority {ca} cannot be used: {error}; it must be a PEM file of certificates"
        ) from error


def own_files(directory: Path, names: Sequence[str], now: datetime.datetime) -> TlsFiles:
    """The node's own certificates, made where there are none and renewed where they end soon.

    `names` are the host names and addresses that clients may use, beside those of this machine.
    Raises TlsError.
    """
    folder = directory / "tls"
    files = TlsFiles(folder / "server.pem", folder / "server.key", folder / CA_FILE)
    everyone = list(dict.fromkeys(["localhost", "127.0.0.1", socket.gethostname(), *names]))
    try:
        from cryptography import x509  # noqa: PLC0415 - an extra, and half a second
    except ImportError:
        raise TlsError(
            "making certificates takes the package cryptography: pip install 'writ-orchestrator[tls]', or "
            "give your own with --tls-cert, --tls-key and --tls-ca"
        ) from None
    folder.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    try:
        if not files.ca.exists():
            _make_authority(files.ca, folder / "ca.key", now)
        if not _serves(files.cert, everyone, now):
            _make_server(files, folder / "ca.key", everyone, now)
        x509.load_pem_x509_certificate(files.cert.read_bytes())
    except (OSError, ValueError) as error:
        raise TlsError(f"{folder}: {error}; move the folder away to have another one made") from error
    return files


def _serves(path: Path, names: Sequence[str], now: datetime.datetime) -> bool:
    """Whether a certificate is for all the names and lasts a while yet."""
    from cryptography import x509  # noqa: PLC0415

    if not path.exists():
        return False
    cert = x509.load_pem_x509_certificate(path.read_bytes())
    found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {str(each.value) for each in found}
    return set(names) <= known and cert.not_valid_after_utc > now + datetime.timedelta(days=RENEW_DAYS)


def _make_authority(path: Path, key_path: Path, now: datetime.datetime) -> None:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    key, name = _new_key(), _named("Writ broker authority")
    built = _builder(name, name, key, now, AUTHORITY_DAYS)
    built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    _write(key_path, _private(key))
    _write(path, _pem(built.sign(key, hashes.SHA256())))


def _make_server(files: TlsFiles, ca_key: Path, names: Sequence[str], now: datetime.datetime) -> None:
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    signer: Any = serialization.load_pem_private_key(ca_key.read_bytes(), None)
    key = _new_key()
    built = _builder(_named("Writ broker"), authority.subject, key, now, SERVER_DAYS)
    built = built.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    built = built.add_extension(x509.SubjectAlternativeName([_alternative(each) for each in names]), False)
    built = built.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    built = built.add_extension(issuer, False)
    _write(files.key, _private(key))
    _write(files.cert, _pem(built.sign(signer, hashes.SHA256())))


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    return ec.generate_private_key(ec.SECP256R1())


def _named(text: str) -> Any:
    from cryptography import x509  # noqa: PLC0415

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> Any:
    from cryptography import x509  # noqa: PLC0415

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(subject: Any, issuer: Any, key: Any, now: datetime.datetime, days: int) -> Any:
    from cryptography import x509  # noqa: PLC0415

    built = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    built = built.serial_number(x509.random_serial_number())
    built = built.not_valid_before(now - datetime.timedelta(hours=1))
    built = built.not_valid_after(now + datetime.timedelta(days=days))
    return built.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)


def _pem(cert: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return cert.public_bytes(Encoding.PEM)


def _private(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form  # noqa: PLC0415

    content: bytes = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return content


def _write(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, SEED_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
