"""The page of ``safa app`` at 1400 and 420 px: nothing is cut off, options can be read, contrast."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safa.checkpoint.native import ModelInfo, save_model
from tests.contract.wires.world import World

STARTS_WITHIN = 120  # seconds
READABLE = 120  # px that an option has for its words
TABS = ("Animate", "Swap", "3D head")


@pytest.fixture(scope="module")
def address(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page of a tiny model is served."""
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    folder: Path = tmp_path_factory.mktemp("page")
    model = world.make_model(num_keypoints=4)
    save_model(folder / "model", model, ModelInfo("full", model.config, 5, "test"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["app", "--checkpoint", str(folder / "model"), "--port", str(port), "--detector", "none"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "safa.cli", *words], stdout=log, stderr=log)
    end = time.monotonic() + STARTS_WITHIN
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end, (folder / "log").read_text()
        time.sleep(0.3)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 420])
def test_every_tab_can_be_read(address: str, visit: Any, axe: str, width: int, scheme: str) -> None:
    opened = visit(address, width, scheme)
    page = opened.page
    page.wait_for_selector("#animate-run", timeout=60_000)
    page.evaluate(axe)
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(500)  # the colours of a tab change slowly
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        widths = page.eval_on_selector_all(
            "label:has(input[type=checkbox])", "all => all.map(e => e.clientWidth).filter(w => w > 0)"
        )
        assert widths
        assert min(widths) >= READABLE, (tab, widths)
        found = page.evaluate("axe.run(document, {runOnly: ['color-contrast']})")["violations"]
        assert [node["html"][:120] for each in found for node in each["nodes"]] == []
    assert opened.console == []
