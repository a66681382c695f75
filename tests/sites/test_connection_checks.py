"""What `fedllm site check` says of key, certificates, port and clock, held against a small TLS server."""

import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fedllm_app.sites import connection_checks, keys
from fedllm_app.sites.connection_checks import check_authority, check_key, check_server
from fedllm_app.sites.site_file import Site


class Server(HTTPServer):
    """Answers /health and refuses every node; its clock is `ahead` of the true one."""

    ahead = timedelta()

    def handle_error(self, *_arguments) -> None:
        """A client that breaks the handshake off is what some tests are about."""


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(400)

    def reply(self, status: int) -> None:
        self.send_response_only(status)
        self.send_header("Date", format_datetime(datetime.now(UTC) + self.server.ahead, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def serve(tmp_path):
    """A server with the certificate of a directory, or without TLS; the site that knows it."""
    servers = []

    def start(hosts=("127.0.0.1",), tls: bool = True, days: int = 90) -> Site:
        server = Server(("127.0.0.1", 0), Answer)
        if tls:
            keys.make_authority(tmp_path, "trial")
            keys.make_server_certificate(tmp_path, hosts, days)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tmp_path / keys.SERVER, tmp_path / keys.SERVER_KEY)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        site = site_of(tmp_path, server.server_port)
        start.server = server
        return site

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def site_of(directory, port: int) -> Site:
    keys.make_authority(directory, "trial")
    keys.make_node_key(directory / "node.key")
    place = directory / "ca.crt", directory / "node.key"
    return Site(directory, f"127.0.0.1:{port}", *place, "a", directory / "home", directory / "policy.toml")


def found(check, site: Site) -> dict[str, tuple[str, str]]:
    return {finding.subject: (finding.level, finding.text) for finding in check(site)}


def test_all_is_well_but_for_the_registration(serve):
    lines = found(check_server, serve())
    assert {subject: level for subject, (level, _) in lines.items()} == {
        "port": "ok",
        "certificate": "ok",
        "clock": "ok",
        "registration": "fails",
    }
    assert "flwr supernode register" in lines["registration"][1]


def test_a_certificate_for_another_name(serve):
    assert "is not for the name '127.0.0.1'" in found(check_server, serve(["fl.example.org"]))["certificate"][1]


@pytest.mark.parametrize(
    ("begins", "days", "said"),
    [(-timedelta(days=5), -1, "has expired"), (timedelta(days=2), 90, "is not valid yet"), (timedelta(), 9, "ends on")],
)
def test_the_dates_of_a_certificate(serve, monkeypatch, begins, days, said):
    monkeypatch.setattr(keys, "_EARLIER", -begins)
    assert said in found(check_server, serve(days=days))["certificate"][1]


def test_an_authority_that_did_not_sign(serve, tmp_path):
    site = serve()
    (tmp_path / "other").mkdir()
    other = site_of(tmp_path / "other", site.port)
    assert "is not signed by" in found(check_server, other)["certificate"][1]


def test_a_port_without_tls_and_one_without_anything(serve, tmp_path):
    assert "does not speak TLS" in found(check_server, serve(tls=False))["certificate"][1]
    assert "nothing listens there" in found(check_server, site_of(tmp_path, 1))["port"][1]


@pytest.mark.parametrize(
    ("ahead", "level", "said"),
    [(-60, "fails", "60 s ahead of"), (60, "warning", "60 s behind"), (3600, "fails", "3600 s behind")],
)
def test_clocks_that_differ(serve, ahead, level, said):
    """Flower takes signatures that are up to 300 s old, and none from the future."""
    site = serve()
    serve.server.ahead = timedelta(seconds=ahead)
    assert found(check_server, site)["clock"][0] == level
    assert said.split()[-1] in found(check_server, site)["clock"][1]


def test_the_files_of_a_site(tmp_path):
    site = site_of(tmp_path, 1)
    assert found(check_key, site)["key"][0] == "ok"
    assert found(check_authority, site)["authority"][0] == "ok"
    site.key.chmod(0o644)
    assert found(check_key, site)["key"] == (
        "warning",
        f"{site.key} can be read by others (mode 644): chmod 600 {site.key}",
    )
    keys.make_server_certificate(tmp_path, ["a"])
    site.authority.write_bytes((tmp_path / keys.SERVER).read_bytes())
    assert [finding.level for finding in check_authority(site)] == ["warning", "ok"]


def test_a_node_that_runs_is_not_taken_for_a_stranger(serve, monkeypatch):
    monkeypatch.setattr(connection_checks, "is_running", lambda _site: True)
    assert found(check_server, serve())["registration"] == ("ok", "this site's node is running and is not disturbed")
