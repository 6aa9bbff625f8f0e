"""What is served, to whom, and what is refused: real requests over a real socket."""

import http.client
import socket

import pytest

from cfmimo.presets import load
from coordinator.collector import Coordinator
from coordinator.watch import Watch, Watcher
from coordinator.watch.stopwatch import Stopwatch
from coordinator.watch.web import serve


def unexpected(what: str, error: Exception) -> None:
    raise AssertionError(what) from error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def started(host: str) -> int:
    coordinator, port = Coordinator(load("demo")), free_port()
    serve(lambda: coordinator, Stopwatch(), host, port, unexpected)
    return port


@pytest.fixture(scope="module")
def port() -> int:
    return started("127.0.0.1")


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    response = connection.getresponse()
    return response, response.read()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/metrics", "/nowhere"])
def test_whatever_does_not_only_read_is_refused(port: int, path: str, method: str) -> None:
    response, _ = ask(port, path, method)
    assert response.status == 405
    assert response.headers["Allow"] == "GET,HEAD"


def test_metrics_can_be_got_and_their_head_alone(port: int) -> None:
    response, body = ask(port, "/metrics")
    assert response.status == 200
    assert b"cfmimo_slots 1200.0" in body
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    response, body = ask(port, "/metrics", "HEAD")
    assert (response.status, body) == (200, b"")


@pytest.mark.parametrize("path", ["/metrics", "/nowhere"])
def test_every_answer_forbids_what_the_page_does_not_need(port: int, path: str) -> None:
    headers = ask(port, path)[0].headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:7", "127.0.0.2"])
def test_a_loopback_name_is_answered(port: int, host: str) -> None:
    assert ask(port, "/metrics", host=host)[0].status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:80", "10.0.0.1", "", "[::1", "127.0.0.1.evil"]
)
def test_on_loopback_another_name_is_not(port: int, host: str) -> None:
    assert ask(port, "/metrics", host=host)[0].status == 421


def test_off_loopback_every_name_is() -> None:
    assert ask(started("0.0.0.0"), "/metrics", host="coordinator:9100")[0].status == 200


def test_a_port_that_is_taken_is_refused_at_once(port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        serve(lambda: Coordinator(load("demo")), Stopwatch(), "127.0.0.1", port, unexpected)


def test_an_error_in_serving_is_said_once_and_answered(capfd: pytest.CaptureFixture[str]) -> None:
    present, port, said = [Coordinator(load("demo"))], free_port(), list[str]()
    Watcher(Watch(port), lambda: present[0], said.append)
    present.clear()
    for _ in range(2):
        response, body = ask(port, "/metrics")
        assert response.status == 500
        assert body == b"IndexError: list index out of range\n"
    assert said == ["serving /metrics failed (IndexError: list index out of range); the run goes on"]
    assert capfd.readouterr() == ("", "")
