"""The page in a browser: every figure has a size, and nothing sticks out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import Finished

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
# A window cannot be as narrow as a phone, a frame can.
FRAME = """<script>addEventListener("message", e => document.body.dataset.seen = e.data)</script>
<body><iframe src="page.html" style="border: 0; width: {width}px; height: 900px"></iframe></body>"""
MEASURE = """<script>addEventListener("load", () => {
  const pictures = [...document.images].map(i => [i.naturalWidth, i.offsetWidth, i.offsetHeight]);
  parent.postMessage(JSON.stringify({
    pictures, window: innerWidth, page: document.documentElement.scrollWidth,
    text: parseFloat(getComputedStyle(document.body).fontSize),
  }), "*");
})</script>"""


def seen(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """What a browser makes of the page at that width."""
    assert BROWSER, "no browser found: run scripts/browser.sh"
    html = page.read_text(encoding="utf-8").replace("</body>", MEASURE + "</body>")
    (folder / "page.html").write_text(html, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    command = [
        BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000",
        "--virtual-time-budget=10000", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-seen="([^"]+)"', done.stdout)
    assert found is not None, "the page did not finish loading"
    measured: dict[str, Any] = json.loads(found[1].replace("&quot;", '"'))
    return measured


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    ("report", "page"), [("images", "report"), ("looked", "kernel"), ("preferred", "nads")]
)
def test_every_figure_is_seen_and_nothing_sticks_out(
    report: str, page: str, width: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    finished: Finished = request.getfixturevalue(report)
    found = seen(finished.folder / f"{page}.html", width, tmp_path)
    assert found["window"] == width
    assert found["page"] <= width
    assert found["text"] >= 15
    assert len(found["pictures"]) == finished.html.count("<img")
    for natural, shown, height in found["pictures"]:
        assert natural > 0
        assert min(300, width - 40) <= shown <= width
        assert height >= 150
