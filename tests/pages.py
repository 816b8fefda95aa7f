"""The report's page, as a browser shows it and as its script reads it."""

import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no chromium here")


def series_of(page: str) -> dict:
    """What the charts of a page are drawn from."""
    return json.loads(re.search(r'id="series">(.*?)</script>', page, re.S)[1])


def in_a_browser(page: str, folder, script: str = "") -> str:
    """The page's document after its script, and `script`, have run."""
    file = folder / "report.html"
    if script:  # the page's own policy would refuse it
        page = re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", f"<script>{script}</script></body>")
    file.write_text(page)
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={folder / 'profile'}"),
        *("--window-size=1300,2000", "--virtual-time-budget=4000", "--dump-dom", file.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
