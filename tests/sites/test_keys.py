"""Keys and certificates that Flower's own readers, and OpenSSL's handshake, take."""

import socket
import ssl
import stat
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.cli.supernode.register import try_load_public_key

from fedllm_app.sites.keys import (
    AUTHORITY,
    SERVER,
    SERVER_KEY,
    KeyFileError,
    make_authority,
    make_node_key,
    make_server_certificate,
    read_node_key,
    write_private,
)


def test_flower_reads_both_halves_of_a_node_key(tmp_path):
    public = make_node_key(tmp_path / "node.key")
    assert try_load_public_key(public).startswith(b"-----BEGIN PUBLIC KEY-----")
    assert read_node_key(tmp_path / "node.key").curve.name == "secp384r1"
    assert stat.S_IMODE((tmp_path / "node.key").stat().st_mode) == 0o600


def test_a_key_that_is_there_is_kept(tmp_path):
    """Another one would have to be registered anew; its public half is written again."""
    first = make_node_key(tmp_path / "node.key").read_bytes()
    (tmp_path / "node.key.pub").unlink()
    assert make_node_key(tmp_path / "node.key").read_bytes() == first


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"]
)
def test_a_damaged_key_says_what_a_key_must_be(tmp_path, content):
    (tmp_path / "node.key").write_bytes(content)
    with pytest.raises(KeyFileError, match="elliptic-curve key in OpenSSH's format"):
        read_node_key(tmp_path / "node.key")


def test_a_key_of_another_kind_is_named(tmp_path):
    key = ed25519.Ed25519PrivateKey.generate()
    write_private(tmp_path / "key", key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    with pytest.raises(KeyFileError, match="Ed25519PrivateKey"):
        read_node_key(tmp_path / "key")


def test_half_an_authority_is_not_completed(tmp_path):
    """A new one beside an old certificate would lock all sites out."""
    make_authority(tmp_path, "first")
    (tmp_path / "ca.key").unlink()
    with pytest.raises(KeyFileError, match="only one of ca.crt and ca.key"):
        make_authority(tmp_path, "second")


def handshake(directory, name: str) -> str:
    """What a client says of the server's certificate when it reaches the server as `name`; "" if it is content."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / SERVER, directory / SERVER_KEY)
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=answer)
    thread.start()
    client = ssl.create_default_context(cafile=directory / AUTHORITY)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        client.wrap_socket(ours, server_hostname=name).close()
        return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        ours.close()
        thread.join()


def test_a_server_certificate_is_valid_for_its_names_alone(tmp_path):
    make_authority(tmp_path, "trial")
    make_server_certificate(tmp_path, ["fl.example.org", "10.1.2.3"])
    assert [handshake(tmp_path, name) for name in ("fl.example.org", "10.1.2.3")] == ["", ""]
    assert "mismatch" in handshake(tmp_path, "other.example.org")


@pytest.mark.parametrize("host", ["", "https://fl.example.org", "fl.example.org:8000", "two words"])
def test_what_is_no_host_is_refused(tmp_path, host):
    make_authority(tmp_path, "trial")
    with pytest.raises(KeyFileError, match="without a port"):
        make_server_certificate(tmp_path, [host])
