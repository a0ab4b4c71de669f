"""The README's pictures of a report: python tests/benchmarks/screenshots.py deploy-out/report.html. Needs Chromium."""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.browser import browser  # noqa: E402

SHOTS = {"watch-1280.png": (1280, "light"), "watch-390.png": (390, "dark")}
HEIGHT = 1240

with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser(Path(folder)) as page:
    for name, (width, scheme) in SHOTS.items():
        page.open(Path(sys.argv[1]).resolve().as_uri(), width, scheme=scheme)
        file = ROOT / "pipeline" / "release" / "html" / name
        page.screenshot(file, x=0, y=0, width=width, height=HEIGHT)
