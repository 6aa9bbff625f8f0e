"""The live map, in a real browser, of a real run in which APs die."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from cfmimo.presets import load
from cfmimo.runtime.local import LocalNetwork
from channel_server.recorded import ROOF_M, SCENES
from coordinator.watch.live import LiveMap, Seen

NUM_APS, DEAD = 100, range(30, 40)
PLAN = f"""
[[faults]]
slot = 5
target = "ap/{DEAD[0]}-{DEAD[-1]}"
action = "kill"
args = {{slots = 1000000}}
"""
BROWSER = shutil.which("chromium")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,1000")
ALONE = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
PATIENCE_S = 60.0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Where a run is served."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "plan.toml").write_text(PLAN)
    run = ("run", "hundred", "--runtime", "local", "--faults", str(tmp_path / "plan.toml"), "--set", "run.episodes=500")
    run = (*run, "--set", "impairments.oscillator_deg=[[0.6, 5], [0.4, 90]]")
    command = [sys.executable, "-m", "cfmimo", *run, "--metrics-port", str(port), "--out", str(tmp_path / "run")]
    process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()


@dataclass
class Page:
    """A page in the browser, by the DevTools protocol."""

    socket: aiohttp.ClientWebSocketResponse
    calls: int = 0

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        self.calls += 1
        await self.socket.send_json({"id": self.calls, "method": method, "params": parameters})
        while True:
            answer = json.loads((await self.socket.receive(timeout=PATIENCE_S)).data)
            if answer.get("id") == self.calls:
                return dict(answer["result"])

    async def value(self, script: str) -> Any:
        result = (await self.call("Runtime.evaluate", expression=script, returnByValue=True))["result"]
        assert result.get("subtype") != "error", result
        return result.get("value")

    async def until(self, script: str) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not await self.value(f"location.protocol == 'http:' && document.body && ({script})"):
            assert time.monotonic() < give_up, (script, await self.value("document.body.innerText"))
            await asyncio.sleep(0.2)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Page]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        arguments = (f"--user-data-dir={folder}", "--remote-debugging-port=0", url)
        assert BROWSER is not None
        browser = subprocess.Popen([BROWSER, *QUIET, *ALONE, *arguments], stderr=subprocess.DEVNULL)
        try:
            port = await _port(Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    page = next(target for target in await answer.json() if target["type"] == "page")
                async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=2**26) as devtools:
                    yield Page(devtools)
        finally:
            browser.terminate()
            browser.wait(20)


async def _port(file: Path) -> str:
    give_up = time.monotonic() + PATIENCE_S
    while not (file.is_file() and file.read_text().strip()):
        assert time.monotonic() < give_up, "the browser did not start"
        await asyncio.sleep(0.1)
    return file.read_text().split()[0]


def wait_until_served(url: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310  our own server
        except OSError:
            assert time.monotonic() < give_up, "the run is not served"
            time.sleep(0.2)
        else:
            return


def test_the_page_is_told_where_buildings_are() -> None:
    """Each row's stretches of roofs, as rectangles of an SVG path."""
    canyon = {"channel_file": "canyon"}
    network = LocalNetwork(load("demo", ("radio.num_aps=12", "radio.num_ues=6", "run.episodes=1"), propagation=canyon))
    network.run()
    told = [json.loads(text) for text in LiveMap(lambda: network.coordinator).news(Seen())]
    (episode,) = [message["episode"] for message in told if "episode" in message]
    with np.load(SCENES / "canyon.npz") as file:
        roofs = file["roofs"] != 0
    drawn = np.zeros_like(roofs)
    for x, y, width, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", episode["roofs"]):
        assert width == back
        drawn[int(y), int(x) : int(x) + int(width)] = True
    np.testing.assert_array_equal(drawn, roofs)
    assert episode["roof_m"] == ROOF_M


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: Debian's package chromium has it")
def test_the_map_moves_shows_who_is_dead_and_tells_of_whom_is_clicked(served: str) -> None:
    wait_until_served(served)

    async def watch() -> None:
        async with opened(served) as page:
            await page.until(f"document.querySelectorAll('.ap').length == {NUM_APS}")
            await page.until(f"document.querySelector('[data-ap=\"{DEAD[0]}\"]').classList.contains('down')")
            assert await page.value("document.querySelectorAll('.ap.down').length") == len(DEAD)
            cross = f"getComputedStyle(document.querySelector('[data-ap=\"{DEAD[0]}\"] .cross')).display"
            assert await page.value(cross) == "inline"
            assert await page.value("document.getElementById('dead').textContent") == str(len(DEAD))
            before = int(await page.value("document.getElementById('at').textContent"))
            await page.until(f"Number(document.getElementById('at').textContent) > {before + 5}")
            await page.value(
                f"document.querySelector('[data-ap=\"{DEAD[0]}\"]').dispatchEvent(new MouseEvent('click'))"
            )
            assert "down" in await page.value("document.getElementById('about').innerText")
            await page.value("document.querySelector('[data-ap=\"0\"]').dispatchEvent(new MouseEvent('click'))")
            told = await page.value("document.getElementById('about').innerText")
            assert "reward" in told
            assert await page.value("document.querySelectorAll('.ap circle').length") == 0.4 * NUM_APS
            ringed = "[...document.querySelectorAll('.ap:has(circle) title')]"
            assert await page.value(f"{ringed}.every(title => title.textContent.includes('90 degrees'))")
            assert float(await page.value("document.querySelectorAll('#about td')[5].textContent")) is not None
            assert await page.value("document.querySelectorAll('.formed line').length") > 0
            assert await page.value("document.querySelectorAll('.ue').length") > 0
            if picture := os.environ.get("CFMIMO_LIVE_PICTURE"):  # for a person to look at
                shot = await page.call("Page.captureScreenshot")
                Path(picture).write_bytes(base64.b64decode(shot["data"]))

    asyncio.run(watch())


def test_the_page_needs_nothing_from_elsewhere(served: str) -> None:
    wait_until_served(served)
    with urllib.request.urlopen(served, timeout=10) as answer:  # noqa: S310  our own server
        text, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert not [word for word in ("http://", "https://", "src=", "@import") if word in text.replace(SVG, "")]


SVG = "http://www.w3.org/2000/svg"
