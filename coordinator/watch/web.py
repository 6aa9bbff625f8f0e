"""HTTP of a run: live map and metrics, read-only, from a thread that ends with the process."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Middleware

from coordinator.collector import Coordinator
from coordinator.watch.live import PAGE, POLICY, LiveMap, Seen
from coordinator.watch.metrics import CONTENT_TYPE, RunMetrics
from coordinator.watch.stopwatch import Stopwatch

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LOOK_S = 0.2  # interval between two updates of a browser
_METHODS = ("GET", "HEAD")
_Complain = Callable[[str, Exception], None]
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(
    coordinator: Callable[[], Coordinator], stopwatch: Stopwatch, host: str, port: int, complain: _Complain
) -> None:
    """Serve a run.

    Args:
        coordinator: returns the present one, as it may be replaced after a death.
        stopwatch: knows the durations of slots.
        host: address to bind to. On loopback, only requests for a loopback name are answered: a page from elsewhere
            cannot read the run by DNS rebinding.
        port: to bind to.
        complain: told what failed, and by which exception.

    Raises:
        OSError: if the address cannot be bound.
    """
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    app = application(coordinator, stopwatch, _is_loopback(host), complain)
    threading.Thread(target=lambda: asyncio.run(_run(app, listener)), name="web", daemon=True).start()


def application(
    coordinator: Callable[[], Coordinator], stopwatch: Stopwatch, loopback: bool, complain: _Complain
) -> web.Application:
    """The routes; the arguments are those of `serve`, and whether it is bound to loopback."""
    metrics = RunMetrics(coordinator, stopwatch)

    async def scrape(request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    live = LiveMap(coordinator)

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html", headers={"Content-Security-Policy": POLICY})

    async def events(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        known = Seen()
        with suppress(ConnectionResetError):  # the browser has gone
            while True:
                for text in live.news(known):
                    await stream.write(f"data: {text}\n\n".encode())
                await asyncio.sleep(_LOOK_S)
        return stream

    app = web.Application(middlewares=[_guard(loopback), _answer_always(complain)])
    app.on_response_prepare.append(_harden)
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/", page)
    app.router.add_get("/events", events)
    return app


async def _run(app: web.Application, listener: socket.socket) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await asyncio.Event().wait()  # until the process ends


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def _guard(loopback: bool) -> Middleware:
    """Answer reading requests only, and on loopback only those for a loopback name."""

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.method not in _METHODS:
            raise web.HTTPMethodNotAllowed(request.method, _METHODS)
        if loopback and not _is_loopback(_name(request.host)):
            raise web.HTTPMisdirectedRequest(text=f"this is served on loopback, not as {request.host!r}\n")
        return await handler(request)

    return guard


def _answer_always(complain: _Complain) -> Middleware:
    """Make an exception a complaint and an answer, as nothing else would say it."""

    @web.middleware
    async def answer(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:  # noqa: BLE001  whatever it is: the run goes on
            complain(f"serving {request.path}", error)
            raise web.HTTPInternalServerError(text=f"{type(error).__name__}: {error}\n") from None

    return answer


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False
