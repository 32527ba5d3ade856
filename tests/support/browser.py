"""Run a script in a page in headless Chromium, where there is one."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def run_in_page(page: str, script: str, folder: Path, *, width: int = 1200) -> tuple[object, str]:
    """Run ``script``, the body of a function, in the page; return its value and the console's messages."""
    path = folder / "page.html"
    driver = f"<script>document.body.dataset.got = JSON.stringify((() => {{ {script} }})());</script>"
    path.write_text(page.replace("</body>", f"{driver}</body>"), encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
            f"--window-size={width},900", f"--user-data-dir={folder / 'profile'}", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    got = re.search(r'<body[^>]* data-got="([^"]*)"', done.stdout)
    assert got is not None, done.stdout[-2000:]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(got[1])), console
