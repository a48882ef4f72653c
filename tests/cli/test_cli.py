"""The gizmopy command."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import UnixStreamServer

import pytest
import trustme

import gizmopy
from gizmopy.cli import main

ROOT = Path(__file__).parents[2]
CATS = "tests.cats:Cats"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run each command in an empty directory, with the project importable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    for name in ("HTTP_PORT", "PORT", "HTTP_ADDR", "GIZMO_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the package's version."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gizmopy {gizmopy.__version__}\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """--help has the name and the description of each command."""
    with pytest.raises(SystemExit):
        main(["--help"])

    text = capsys.readouterr().out
    assert all(command in text for command in ("run", "routes", "config", "healthcheck"))


def test_routes_prints_endpoints_and_subscriptions(capsys: pytest.CaptureFixture[str]) -> None:
    """routes prints each endpoint and subscription with its method, and starts nothing."""
    assert main(["routes", CATS]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "GET        /svc/cats/stats  Cats.stats",
        "GET        /svc/cats/{id}   Cats.get_cat",
        "PUT        /svc/cats/{id}   Cats.put_cat",
        "subscribe  cats (cats)      Cats.on_cat",
    ]


def test_routes_prints_checkers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An endpoint with a security scheme has the names of its checkers."""
    (tmp_path / "secured_service.py").write_text(
        "from gizmopy import Service, get, http_bearer\n"
        "class Shop(Service):\n"
        "    @http_bearer\n"
        "    def user(self, token: str) -> str: ...\n"
        "    security = (user, None)\n"
        "    @get('/me')\n"
        "    async def me(self) -> None: ...\n"
        "    @get('/open', security=None)\n"
        "    async def open(self) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["routes", "secured_service:Shop"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "GET  /me    Shop.me  [user or nobody]",
        "GET  /open  Shop.open",
    ]


def test_routes_prints_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Background work has its schedule and its name."""
    (tmp_path / "working_service.py").write_text(
        "from gizmopy import Service, background, every\n"
        "class Shop(Service):\n"
        "    @every('90s')\n"
        "    async def expire(self) -> None: ...\n"
        "    @background\n"
        "    async def watch(self) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["routes", "working_service:Shop"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "job  every 1m30s        Shop.expire",
        "job  in the background  Shop.watch",
    ]


def test_routes_prints_mounted_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their endpoints have both prefixes; their handlers are named after their class."""
    (tmp_path / "mounting_service.py").write_text(
        "from gizmopy import Endpoints, Service, get, subscribe\n"
        "class Orders(Endpoints):\n"
        "    prefix = '/orders'\n"
        "    @get('')\n"
        "    async def list_orders(self) -> None: ...\n"
        "    @subscribe('orders')\n"
        "    async def on_order(self, order: str) -> None: ...\n"
        "class Shop(Service):\n"
        "    prefix = '/v1'\n"
        "    def mounts(self): return [Orders()]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["routes", "mounting_service:Shop"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "GET        /v1/orders     Orders.list_orders",
        "subscribe  orders (shop)  Orders.on_order",
    ]
    assert main(["routes", "mounting_service:Orders"]) == 1
    assert "Orders is mounted, not run" in capsys.readouterr().err


def test_config_prints_value_and_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """config prints each setting with its environment name, default, value and source."""
    monkeypatch.setenv("HTTP_PORT", "9000")
    assert main(["config", CATS, "--log-level", "debug"]) == 0

    lines = capsys.readouterr().out.splitlines()
    (port,) = [line for line in lines if line.startswith("http_port ")]
    (level,) = [line for line in lines if line.startswith("log_level ")]
    assert "HTTP_PORT" in port
    assert "8080" in port
    assert "9000" in port
    assert "environment" in port
    assert "command line" in level


def test_config_takes_flags_without_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    """The value of a flag is not parsed as the service."""
    assert main(["config", "--http-port", "81"]) == 0

    (port,) = [li for li in capsys.readouterr().out.splitlines() if li.startswith("http_port ")]
    assert "81" in port
    assert "command line" in port


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the help is printed, and the exit code is 2."""
    assert main([]) == 2
    assert "healthcheck" in capsys.readouterr().out


def test_config_masks_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """config prints only the scheme and the host of a broker's URL."""
    monkeypatch.setenv("GIZMO_PUBSUB_URL", "memory://user:hunter2@broker")
    assert main(["config"]) == 0

    text = capsys.readouterr().out
    assert "hunter2" not in text
    assert "memory://broker *** (28 characters, from the environment)" in text


def test_config_writes_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/settings.md is the output of config --markdown (`make docs` writes it)."""
    assert main(["config", "--markdown"]) == 0

    assert capsys.readouterr().out == (ROOT / "docs/settings.md").read_text()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tests.cats", "write it as module:Service"),
        (".service:Cats", "write it as module:Service"),
        ("no.such:Cats", "the module 'no' is neither in the working directory nor installed"),
        ("tests.dogs:Dogs", "the module 'tests.dogs' is neither"),
        ("tests.cats:Dogs", "its services are: Cats"),
        ("json:Dogs", "its services are: none"),
    ],
)
def test_an_unknown_service_is_an_error_with_the_remedy(
    target: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error for an unknown service is one line with the remedy, and exit code 1."""
    assert main(["routes", target]) == 1

    text = capsys.readouterr().err
    assert expected in text
    assert text.count("\n") == 1


def test_an_error_within_the_service_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error within an imported module is shown with its traceback."""
    (tmp_path / "broken_service.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        main(["routes", "broken_service:Broken"])


def test_a_mistake_in_a_declaration_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error of a wrong declaration has file, line and method, and exit code 2."""
    path = tmp_path / "wrong_service.py"
    path.write_text(
        "from gizmopy import Service, get\n\n\nclass Wrong(Service):\n"
        '    @get("/cats/{id}")\n    async def cat(self) -> None: ...\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["routes", "wrong_service:Wrong"]) == 2

    text = capsys.readouterr().err
    assert text.startswith(f"gizmopy: {path}:5: Wrong.cat: ")
    assert text.count("\n") == 1


def test_every_wrong_setting_is_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown flags and wrong values are in one report, with exit code 2."""
    assert main(["config", CATS, "--htp-port", "1", "--http-port", "x", "--log-level=loud"]) == 2

    text = capsys.readouterr().err
    for expected in (
        "--htp-port",
        "did you mean --http-port?",
        "--http-port=x",
        "--log-level=loud",
    ):
        assert expected in text


class _Daemon(BaseHTTPRequestHandler):
    status = 200
    body = "asked for"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(f"{self.body} {self.path}\n".encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Daemon]]:
    """Answer probes on a free port that HTTP_PORT names."""
    with HTTPServer(("127.0.0.1", 0), _Daemon) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("HTTP_PORT", str(server.server_port))
        yield _Daemon
        server.shutdown()
        thread.join()


def test_healthcheck_is_0_if_the_daemon_is_ready(
    daemon: type[_Daemon], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """healthcheck requests /readyz, or another probe, at the address in the environment."""
    assert main(["healthcheck"]) == 0
    assert main(["healthcheck", "--probe", "liveness"]) == 0

    assert capsys.readouterr().out.splitlines() == ["asked for /readyz", "asked for /livez"]


def test_healthcheck_connects_to_a_unix_socket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If HTTP_ADDR is the path of a socket, healthcheck connects to it."""
    with UnixStreamServer(str(tmp_path / "cats.sock"), _Daemon) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("HTTP_ADDR", f"unix:{tmp_path / 'cats.sock'}")
        assert main(["healthcheck"]) == 0
        thread.join()

    assert capsys.readouterr().out == "asked for /readyz\n"


def test_healthcheck_uses_tls_if_the_daemon_does(
    daemon: type[_Daemon], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TLS_CERT it uses HTTPS, and accepts a certificate for any name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("cats.example").configure_cert(context)
    with HTTPServer(("127.0.0.1", 0), _Daemon) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("TLS_CERT", "cert.pem")
        monkeypatch.setenv("HTTP_PORT", str(server.server_port))
        assert main(["healthcheck"]) == 0
        thread.join()

    assert capsys.readouterr().out == "asked for /readyz\n"


def test_healthcheck_is_1_if_the_daemon_is_not_ready(
    daemon: type[_Daemon], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a status other than 200 it prints the body, and the exit code is 1."""
    monkeypatch.setattr(daemon, "status", 503)

    assert main(["healthcheck"]) == 1
    assert capsys.readouterr().err == "asked for /readyz\n"


@pytest.mark.parametrize("command", ["config", "run"])
def test_no_error_controls_the_terminal(command: str) -> None:
    """A quoted text is escaped, and cannot imitate an error line of the command."""
    hostile = "\x1b[2J\x9b\u202e\ngizmopy: forged"
    ended = subprocess.run(
        [sys.executable, "-m", "gizmopy", command, CATS],
        env=os.environ | {"GIZMO_LOOP": hostile, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
    )

    assert ended.returncode == 2
    text = ended.stderr.decode()
    assert text.replace("\n", "").isprintable()
    assert "\ngizmopy: forged" not in text


def test_no_response_to_healthcheck_controls_the_terminal(
    daemon: type[_Daemon], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response is printed without control characters, except line ends."""
    monkeypatch.setattr(daemon, "body", "\x9b2J")

    assert main(["healthcheck"]) == 0
    assert capsys.readouterr().out == "\\x9b2J /readyz\n"


def test_healthcheck_is_1_without_a_listener(capsys: pytest.CaptureFixture[str]) -> None:
    """The error of a refused connection is printed, and the exit code is 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    assert main(["healthcheck", f"http://127.0.0.1:{port}"]) == 1
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["localhost:8080", "http://localhost:abc", "ftp://x", "http://["])
def test_healthcheck_rejects_an_invalid_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid URL is a usage error."""
    with pytest.raises(SystemExit) as ended:
        main(["healthcheck", url])

    assert ended.value.code == 2
    assert "write it as http://host:port" in capsys.readouterr().err


def test_python_m_gizmopy_is_the_command() -> None:
    """python -m gizmopy runs the command."""
    command = [sys.executable, "-m", "gizmopy", "--version"]
    version = subprocess.run(command, check=True, capture_output=True, text=True)

    assert version.stdout.startswith("gizmopy ")


@pytest.mark.parametrize("source", [".env", "file", "secrets", "config", "yaml"])
def test_healthcheck_reads_the_sources_of_the_daemon(
    source: str,
    daemon: type[_Daemon],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The port may be in .env, in a file of HTTP_PORT_FILE, a directory of secrets or a file."""
    port = os.environ["HTTP_PORT"]
    monkeypatch.delenv("HTTP_PORT")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "HTTP_PORT").write_text(f"{port}\n")
    (tmp_path / "cats.yaml").write_text(f"http_port: {port}\nown_setting: 1\n")
    if source == ".env":
        (tmp_path / ".env").write_text(f"HTTP_PORT={port}\nNOT A LINE\n")
    elif source == "file":
        monkeypatch.setenv("HTTP_PORT_FILE", str(tmp_path / "HTTP_PORT"))
    elif source == "secrets":
        (tmp_path / "secrets").mkdir()
        (tmp_path / "HTTP_PORT").rename(tmp_path / "secrets" / "HTTP_PORT")
        monkeypatch.setenv("GIZMO_SECRETS_DIR", str(tmp_path / "secrets"))
    else:
        (tmp_path / ".env").write_text("GIZMO_CONFIG=cats.yaml\n")
    assert main(["healthcheck"]) == 0
    output = capsys.readouterr()
    assert (output.out, output.err) == ("asked for /readyz\n", "")
