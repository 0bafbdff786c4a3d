"""A real headless Chromium and the dashboard as a real process, for tests and for screenshots. Debian: apt-get install chromium chromium-driver."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
"""Seconds for what should take two: the machine may be busy."""
FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-dev-shm-usage",
    ),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--force-device-scale-factor=1",
    ),
)
PHONE, DESKTOP = (390, 844), (1360, 900)


def missing() -> str | None:
    """What a test of the page lacks on this machine; None: nothing."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        return "no chromium and chromedriver here (Debian: apt-get install chromium chromium-driver)"
    try:
        import dash  # noqa: F401
        import selenium  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed (pip install 'rlvrkit[dash,test]')"
    return None


@contextmanager
def chromium(size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Iterator[Any]:
    """A browser of its own profile; every message of its console is kept."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory() as profile:
        options = Options()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600},
            )
            set_scheme(driver, "dark" if dark else "light")
            yield driver
        finally:
            driver.quit()


def set_scheme(driver: Any, scheme: str) -> None:
    """What the system prefers: dark or light."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@contextmanager
def dashboard(*paths: Path, flags: Sequence[str] = ()) -> Iterator[str]:
    """`rlkit dash` on these folders; its address."""
    command = [sys.executable, "-m", "rlkit", "dash", *map(str, paths), "--port", "0", *flags]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield next(word for word in line.split() if word.startswith("http://"))
        finally:
            process.terminate()
            process.wait(PATIENCE)
            said.seek(0)
            sys.stderr.write(said.read())  # pytest shows it beside what failed


def until(ask: Callable[[], Any], what: str) -> Any:
    """What `ask` says as soon as it says something; fails after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            found = ask()
        except Exception as error:  # an element that was just replaced: selenium has a dozen names for that
            found, said = None, f" ({type(error).__name__}: {error})"
        else:
            said = ""
        if found:
            return found
        assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {what}{said}"
        time.sleep(0.05)


def visit(driver: Any, address: str) -> None:
    """Open a page and wait until a tab has its content."""
    driver.get(address)
    settled(driver)


def settled(driver: Any) -> None:
    """Wait until nothing is being asked for and every figure that is in view is drawn."""
    script = """
        const main = document.querySelector('main');
        if (!main || !main.innerText.trim() || document.querySelector('[data-dash-is-loading]')) return false;
        if (document.title.startsWith('Updating')) return false;
        return [...document.querySelectorAll('.drawn')].every(d => d.querySelector('.main-svg'));
    """
    until(lambda: driver.execute_script(script), "the tab's content")


def shown(driver: Any) -> None:
    """Wait until every chart of the tab has a curve or a bar in it, whatever else is still being asked for."""
    script = """
        const charts = [...document.querySelectorAll('main .drawn')];
        return charts.length > 0 && charts.every(d => d.querySelector('.main-svg .trace path'));
    """
    until(lambda: driver.execute_script(script), "the charts")


def complaints(driver: Any) -> list[str]:
    """Errors and warnings that the console had since it was asked last."""
    return [e["message"] for e in driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]


def tabs(driver: Any) -> list[Any]:
    return driver.find_elements("css selector", "nav a")


def text_of(driver: Any, selector: str = "main") -> str:
    return str(driver.find_element("css selector", selector).text)
