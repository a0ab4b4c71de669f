"""`report.html` in headless Chromium, as wide as a desk's and a phone's, in light and in dark."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.release import html
from pipeline.release.report import SENSITIVITY
from tests.browser import CHROMIUM, Browser, browser
from tests.road.newcomer import Folder
from tests.unit.test_report_forms import HOSTILE, N, deliver, record
from tests.unit.test_report_pruned import FOUND, pruned

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None and not os.environ.get("BROWSER_REQUIRED"):
        pytest.skip("no Chromium here ('make test' brings it)")
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_stands_alone(finished: Folder, chromium: Browser, width: int, scheme: str) -> None:
    file = finished.path / "deploy-out" / "report.html"
    assert file.stat().st_size < 2_000_000
    chromium.open(file.as_uri(), width, scheme=scheme)
    assert chromium.complaints() == []
    assert chromium.requests() == [file.as_uri()]
    top, left, right, bottom = (
        chromium.ask(f"document.getElementById('verdict').getBoundingClientRect().{side}")
        for side in ("top", "left", "right", "bottom")
    )
    assert (left, top) >= (0, 0)
    assert right <= width
    assert bottom < 900
    assert "bars passes" in chromium.ask("document.getElementById('verdict').innerText")
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    # every chart's words lie within its own picture and are large enough to read
    smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
    assert chromium.ask(smallest) >= 9
    dark = chromium.ask("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(finished: Folder, chromium: Browser, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: contrast of at least 4.5 to 1 for text."""
    chromium.open((finished.path / "deploy-out" / "report.html").as_uri(), 1280, scheme=scheme)
    lowest = chromium.ask(
        """(() => {
        const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
            .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
            return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
        const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
        return Math.min(...[...document.querySelectorAll('body :not(svg *)')].filter(e => e.innerText).map(e => {
            const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05); })); })()"""
    )
    assert lowest >= 4.5


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (16000,)])
def test_pictures_of_flipped_samples_show(chromium: Browser, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """And a recipe's name that is a script does nothing."""
    deliver(tmp_path, np.random.default_rng(0).normal(size=(N, *shape)).astype(np.float32))
    file = tmp_path / "report.html"
    file.write_text(html.page(record(), tmp_path))
    chromium.open(file.as_uri(), 390)
    assert chromium.complaints() == []
    assert chromium.requests() == [file.as_uri()]
    assert chromium.ask("document.images.length") == 2
    assert chromium.ask("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert chromium.ask("document.documentElement.scrollWidth") <= 390
    assert HOSTILE in chromium.ask("document.getElementById('verdict').innerText")


@pytest.mark.parametrize("width", [1280, 390])
def test_what_was_pruned_and_what_layers_can_spare_fit(chromium: Browser, tmp_path: Path, width: int) -> None:
    deep = [{"name": f"stages.{k}.blocks.0.attention.projection", "before": 512, "after": 40 + k} for k in range(20)]
    (tmp_path / SENSITIVITY).write_text(json.dumps(FOUND))
    file = tmp_path / "report.html"
    file.write_text(html.page(pruned({"layers": deep}), tmp_path))
    chromium.open(file.as_uri(), width)
    assert chromium.complaints() == []
    assert chromium.ask("document.documentElement.scrollWidth") <= width
    assert chromium.ask("document.querySelectorAll('.widths tbody tr').length") == 20
    bars = "[...document.querySelectorAll('.widths .fill')].map(bar => bar.getBoundingClientRect().width)"
    lengths = chromium.ask(bars)
    assert all(length > 0 for length in lengths)
    assert lengths == sorted(lengths)
    assert chromium.ask("document.querySelectorAll('.spark .curve').length") == 2
    assert chromium.ask("document.querySelector('.spark .curve').getBoundingClientRect().height") > 5


def test_curves_join_the_report_of_their_own_float_model_only(finished: Folder, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "bars")
    shutil.copytree(finished.path, folder.path)
    done = folder.deploy("sensitivity", "--ratio", "0.5", "--run", "deploy-out")
    assert done.returncode == 0, done.stderr
    page = (folder.path / "deploy-out" / "report.html").read_text()
    assert "What each layer can spare" in page
    (folder.path / "sensitivity.svg").unlink()
    weights = load_file(folder.path / "float.safetensors")
    changed = {name: value * np.float32(0.9) if value.ndim else value for name, value in weights.items()}
    save_file(changed, folder.path / "other.safetensors")
    other = folder.deploy(
        "sensitivity", "--ratio", "0.5", "--run", "deploy-out", "--set", "checkpoint=other.safetensors"
    )
    assert other.returncode == 2
    assert "began from another float model than bars here" in other.stderr
    assert not (folder.path / "sensitivity.svg").exists()


def test_the_forms_are_made_again_from_what_was_delivered(finished: Folder, tmp_path: Path) -> None:
    out = finished.path / "deploy-out"
    done = finished.deploy(
        "report", "deploy-out", "--html", str(tmp_path / "a.html"), "--junit", str(tmp_path / "a.xml")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.html").read_bytes() == (out / "report.html").read_bytes()
    assert (tmp_path / "a.xml").read_bytes() == (out / "junit.xml").read_bytes()
    assert not (tmp_path / "report.md").exists()


def test_no_run_and_no_room_are_one_line(finished: Folder, tmp_path: Path) -> None:
    for arguments, says in (
        (["report", "nowhere"], "no finished run at nowhere"),
        (["report", "deploy-out", "--html", "/proc/nowhere/a.html"], "cannot write /proc/nowhere/a.html"),
    ):
        done = finished.deploy(*arguments)
        assert done.returncode == 2
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_page_prints(finished: Folder, chromium: Browser, tmp_path: Path) -> None:
    chromium.open((finished.path / "deploy-out" / "report.html").as_uri(), 1280, scheme="dark", media="print")
    assert chromium.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(chromium.do("Page.printToPDF", printBackground=True)["data"]) > 10_000
