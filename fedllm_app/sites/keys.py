"""Node keys and TLS certificates, without the programs openssl and ssh-keygen.

A federation has one certificate authority. Its certificate, `ca.crt`, is public and goes to every site; its key signs
the server's certificate and stays with the operator. A site has a key pair of its own, whose public half it sends to
the operator.
"""

import ipaddress
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedllm_app.errors import UserError
from fedllm_app.paths import atomic_path

AUTHORITY, AUTHORITY_KEY = "ca.crt", "ca.key"
SERVER, SERVER_KEY = "server.crt", "server.key"

_AUTHORITY_DAYS = 3650
_EARLIER = timedelta(days=1)  # the clock of a site may be behind


class KeyFileError(UserError):
    """A key or a certificate cannot be made or read; the message names the file and what it must be."""


def make_node_key(path: Path) -> Path:
    """Write a node's private key, P-384 in OpenSSH's format as Flower reads it, and its public half beside it.

    A key that is there already is kept: another one would have to be registered anew.

    Returns
    -------
    Path
        The public key, `<path>.pub`.
    """
    if path.exists():
        key = read_node_key(path)
    else:
        key = ec.generate_private_key(ec.SECP384R1())
        write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = path.with_name(f"{path.name}.pub")
    with atomic_path(public) as temporary:
        temporary.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")
    return public


def read_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A node's private key, as Flower reads it. `KeyFileError` for another kind of file or key."""
    wanted = "it must be an elliptic-curve key in OpenSSH's format without a passphrase, as `fedllm site init` makes it"
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except OSError as error:
        raise KeyFileError(f"the key {path} cannot be read: {error.strerror}; {wanted}") from error
    except Exception as error:  # cryptography has many kinds for a damaged, encrypted or unknown key
        raise KeyFileError(f"the key {path} is not usable ({type(error).__name__}): {wanted}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(f"the key {path} is of the kind {type(key).__name__.lstrip('_')}: {wanted}")
    return key


def make_authority(directory: Path, name: str) -> None:
    """Write `ca.crt` and `ca.key` unless both are there."""
    files = [directory / AUTHORITY, directory / AUTHORITY_KEY]
    if all(file.is_file() for file in files):
        return
    if any(file.exists() for file in files):
        raise KeyFileError(
            f"{directory} has only one of {AUTHORITY} and {AUTHORITY_KEY}: put the other one back, or name a new "
            "directory (then every site needs the new ca.crt)"
        )
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(f"{name} certificate authority")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _certificate(subject, subject, key.public_key(), _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )
    write_private(directory / AUTHORITY_KEY, _pem(key))
    _write_certificate(directory / AUTHORITY, certificate)


def make_server_certificate(directory: Path, hosts: Iterable[str], days: int = 365) -> None:
    """Write `server.crt` and `server.key`, signed by the authority of the directory.

    Parameters
    ----------
    hosts : Iterable[str]
        The names and addresses by which sites reach the server. A certificate is valid for these and no other.
    days : int
        How long it is valid.
    """
    hosts = list(hosts)
    names = [_host(host) for host in hosts]
    authority = read_certificate(directory / AUTHORITY)
    signer = load_pem_private_key((directory / AUTHORITY_KEY).read_bytes(), None)
    key = ec.generate_private_key(ec.SECP384R1())
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _certificate(_name(hosts[0]), authority.subject, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer_id, critical=False)
        .sign(signer, hashes.SHA384())
    )
    write_private(directory / SERVER_KEY, _pem(key))
    _write_certificate(directory / SERVER, certificate)


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. `KeyFileError` if there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise KeyFileError(f"the certificate {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise KeyFileError(f"{path} holds no certificate in PEM format (-----BEGIN CERTIFICATE-----)") from error


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, atomically."""
    with atomic_path(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)


def _certificate(subject: x509.Name, issuer: x509.Name, public, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not host or not host.isascii() or any(character in host for character in " /:'\""):
        raise KeyFileError(f"--host {host!r}: must be a host name or an address without a port")
    return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(certificate.public_bytes(Encoding.PEM))
