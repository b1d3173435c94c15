"""An authority and a certificate for servers on this machine, which also connect to each other by it."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = datetime.timedelta(days=1)


def certify(folder: Path) -> dict[str, str]:
    """Writes them; the variables by which the configurations of `deploy/broker` find them."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    above, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def signed(name: str, of: ec.EllipticCurvePrivateKey, *more: x509.ExtensionType) -> bytes:
        built = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            of.public_key(),
            x509.random_serial_number(),
            now - _DAY,
            now + _DAY,
        )
        for extension in more:
            built = built.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return built.sign(above, hashes.SHA256()).public_bytes(Encoding.PEM)

    files = {name: folder / f"{name.lower()}.pem" for name in ("CA", "CERT", "KEY")}
    files["CA"].write_bytes(signed("authority", above, x509.BasicConstraints(ca=True, path_length=0)))
    files["CERT"].write_bytes(
        signed(
            "server",
            key,
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        )
    )
    files["KEY"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {f"WRIT_BROKER_{name}": str(path) for name, path in files.items()}
