"""Whether a site's node will be let in: key, certificates, port, clock, registration."""

import socket
import ssl
import stat
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedllm_app.sites.findings import Finding, fails, ok, warning
from fedllm_app.sites.keys import read_certificate, read_node_key
from fedllm_app.sites.site_file import Site, lock_file

_TIMEOUT = 10.0  # seconds
_SOON = 30  # days before a certificate ends
_EXPIRED, _NOT_YET, _MISMATCH = 10, 9, (62, 64)  # OpenSSL's codes
_CLOCK = 5.0  # seconds that two machines may differ without a word


def check_key(site: Site) -> Iterator[Finding]:
    """The node's private key: kind, format, who may read it."""
    key = read_node_key(site.key)
    mode = stat.S_IMODE(site.key.stat().st_mode)
    if mode & 0o077:
        yield warning("key", f"{site.key} can be read by others (mode {mode:o}): chmod 600 {site.key}")
    else:
        yield ok("key", f"{site.key}: {key.curve.name}, readable by the owner only")


def check_authority(site: Site) -> Iterator[Finding]:
    """The certificate of the federation's authority, as it was sent to the site."""
    certificate = read_certificate(site.authority)
    subject = certificate.subject.rfc4514_string()
    try:
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = True
    if not is_authority:
        yield warning(
            "authority", f"{site.authority} ({subject}) is not that of an authority: ask the operator for ca.crt"
        )
    yield _dates("authority", f"{site.authority} ({subject})", certificate)


def check_server(site: Site) -> Iterator[Finding]:
    """Reach the server as the node will. What comes after a failure cannot be known and is left out."""
    try:
        address = socket.getaddrinfo(site.host, site.port, type=socket.SOCK_STREAM)[0][4]
        with socket.create_connection((site.host, site.port), timeout=_TIMEOUT) as plain:
            yield ok("port", f"{site.superlink} ({address[0]}) is reached")
            context = ssl.create_default_context(cafile=str(site.authority))
            with context.wrap_socket(plain, server_hostname=site.host) as secured:
                certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True))
    except ssl.SSLError as error:
        yield fails("certificate", _tls_problem(site, error))
        return
    except OSError as error:
        yield fails("port", f"{site.superlink}: {_port_problem(error)}")
        return
    yield _dates("certificate", f"of {site.superlink}", certificate)
    url = f"https://{site.superlink}/health"
    with urllib.request.urlopen(
        url, timeout=_TIMEOUT, context=ssl.create_default_context(cafile=site.authority)
    ) as answer:
        yield _clock(answer.headers.get("Date"))
    yield _registration(site)


def _registration(site: Site) -> Finding:
    """Log the node in and out again. A node that runs is not disturbed: then Flower refuses the second one."""
    key = read_node_key(site.key)
    node = NodeAuthHttpInterceptor(key, key.public_key())
    version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
    authority = read_certificate(site.authority).public_bytes(Encoding.PEM)
    client = FleetHttpClient.from_server_address(site.superlink, False, authority, [version, node])
    public = public_key_to_bytes(key.public_key())
    request = ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
    try:
        node_id = client.ActivateNode(request).node_id
        client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            return fails(
                "registration", "the server does not accept the signature: compare the clocks of both machines"
            )
        return _not_let_in(site, error.response)
    except httpx.HTTPError as error:
        return fails("registration", f"the server breaks the connection off: {error}")
    finally:
        client.close()
    return ok("registration", f"the server knows this key; node {node_id}")


def _not_let_in(site: Site, answer: httpx.Response) -> Finding:
    if is_running(site):
        return ok("registration", "this site's node is running and is not disturbed")
    public = f"{site.key}.pub"
    return fails(
        "registration",
        f"the server does not let the node in (status {answer.status_code}): either the operator has not registered "
        f"{public} yet (`flwr supernode register`), or a node with this key runs elsewhere or was killed less than a "
        "minute ago",
    )


def is_running(site: Site) -> bool:
    """Whether `fedllm site start` runs for this site on this machine."""
    from filelock import FileLock, Timeout

    if not lock_file(site).exists():
        return False
    try:
        with FileLock(lock_file(site), timeout=0):
            return False
    except Timeout:
        return True


def _dates(subject: str, what: str, certificate: x509.Certificate) -> Finding:
    now, until = datetime.now(UTC), certificate.not_valid_after_utc
    if now > until:
        return fails(subject, f"{what} ended on {until:%Y-%m-%d}: the operator must make a new one")
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc
        return fails(subject, f"{what} is valid from {begin:%Y-%m-%d %H:%M} UTC on: set this machine's clock")
    if (until - now).days < _SOON:
        return warning(subject, f"{what} ends on {until:%Y-%m-%d}: ask the operator for a new one")
    return ok(subject, f"{what} is valid until {until:%Y-%m-%d}")


def _clock(date: str | None) -> Finding:
    if date is None:
        return warning("clock", "the server does not tell its time: compare the clocks by hand")
    seconds = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    said = f"this machine is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the server"
    if seconds > _CLOCK or seconds < -TIMESTAMP_TOLERANCE:
        # Flower accepts a signature that is some minutes old, and none from the future.
        return fails(
            "clock", f"{said}: Flower refuses a node's signature then; set the clock (chrony, systemd-timesyncd)"
        )
    if seconds < -_CLOCK:
        return warning("clock", f"{said}: Flower refuses more than {TIMESTAMP_TOLERANCE} s; set the clock")
    return ok("clock", "as the server's, to a few seconds")


def _tls_problem(site: Site, error: ssl.SSLError) -> str:
    code = getattr(error, "verify_code", None)
    theirs = f"the certificate of {site.superlink}"
    if code == _EXPIRED:
        return f"{theirs} has expired: the operator must make a new one (or this machine's clock is ahead)"
    if code == _NOT_YET:
        return f"{theirs} is not valid yet: set this machine's clock"
    if code in _MISMATCH:
        return (
            f"{theirs} is not for the name {site.host!r}: name the server in site.toml as the certificate does, or ask "
            "the operator for one with this name"
        )
    if code is not None:
        return f"{theirs} is not signed by {site.authority}: ask the operator for the right ca.crt"
    return f"{site.superlink} does not speak TLS ({error.reason or error}): is it the right port, is it --insecure?"


def _port_problem(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the name leads to no address: correct superlink in site.toml, or the name service"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: is the SuperLink running, on this port and not on 127.0.0.1 only?"
    if isinstance(error, TimeoutError):
        return f"no answer within {_TIMEOUT:.0f} s: a firewall drops the connection, here (outgoing) or at the server"
    return f"{error.strerror or error}"
