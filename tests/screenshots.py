"""The pictures of docs/dashboard.md, from a real run of the embedded model.

    python -m tests.screenshots FOLDER       runs and evaluations in FOLDER; made there first when it does not exist

Look at them before you commit them.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests import browser

IMAGES = browser.ROOT / "docs" / "img"
TABS = ("overview", "mass", "tokens", "passk", "rollouts", "rewards", "timing", "metrics")
WIDTH, TALLEST = 1280, 1500
TRAIN = (
    "--model tiny --data task:chain --steps 40 --track.every 2 --track.share 0.25 --eval-every 10 --sampler hf "
    "--prompts-per-step 16 --seed 1"
)
EVAL = "--data task:chain --n 32 --prompts 100 --sampler hf"


def main(folder: Path) -> None:
    if not folder.is_dir():
        make_runs(folder)
    IMAGES.mkdir(exist_ok=True)
    with browser.dashboard(folder) as address, browser.chromium((WIDTH, 900)) as driver:
        for number, name in enumerate(TABS):
            browser.visit(driver, address)
            browser.until(lambda: "Reading what" not in browser.text_of(driver), "the diagnosis")
            browser.tabs(driver)[number].click()
            if name == "tokens":  # a step in which much still moves
                driver.get(f"{address}tokens?run=grpo&step=4&row=0")
            if name == "rollouts":  # trees
                driver.get(f"{address}rollouts?run=skpo")
            time.sleep(2)  # a tab's content may come in two answers
            browser.settled(driver)
            prepare(driver, name)
            shoot(driver, IMAGES / f"dash-{name}.png")
            assert not browser.complaints(driver)
        browser.set_scheme(driver, "dark")
        browser.tabs(driver)[1].click()
        time.sleep(2)
        browser.settled(driver)
        shoot(driver, IMAGES / "dash-dark.png")
    with browser.dashboard(folder) as address, browser.chromium(browser.PHONE, dark=True) as driver:
        browser.visit(driver, address)
        shoot(driver, IMAGES / "dash-phone.png", width=browser.PHONE[0], tallest=browser.PHONE[1])


def prepare(driver: Any, name: str) -> None:
    """What a person would open to see what the tab is for."""
    if name == "tokens":
        tokens = driver.find_elements("css selector", ".tok")
        tokens[min(2, len(tokens) - 1)].click()
    if name == "rollouts":
        driver.find_element("css selector", ".answers .answers summary, .answers summary").click()


def shoot(driver: Any, path: Path, *, width: int = WIDTH, tallest: int = TALLEST) -> None:
    """The whole tab, or its upper part; as few colours as it has, to keep the repository small."""
    from PIL import Image

    reset = {"width": width, "height": min(700, tallest), "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", reset
    )  # else the page is as tall as the last picture
    driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    height = min(tallest, int(driver.execute_script("return document.documentElement.scrollHeight")))
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    time.sleep(1)
    browser.settled(driver)
    driver.save_screenshot(str(path))
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)


def make_runs(folder: Path) -> None:
    def rlkit(command: str) -> None:
        subprocess.run([sys.executable, "-m", "rlkit", *command.split()], check=True)

    for algo in ("grpo", "skpo"):
        rlkit(f"train --algo {algo} {TRAIN} --output-dir {folder}/{algo}")
    for name, model in (
        ("start", "tiny"),
        *((a, f"{folder}/{a}/checkpoints/step-000040") for a in ("grpo", "skpo")),
    ):
        rlkit(f"eval --model {model} {EVAL} --output-dir {folder}/evals/{name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
