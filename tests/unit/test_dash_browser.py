"""The dashboard in a real headless Chromium, from a real `rlkit dash` process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser
from tests.models import save_tiny_model
from tests.run_folders import HOSTILE, write_evaluation, write_run

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("all")
    write_run(place / "runs" / "<b>one")
    write_run(place / "runs" / "two", every=0)
    write_evaluation(place / "evals" / "e")
    return place


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with browser.dashboard(folder) as found:
        yield found


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser.chromium() as found:
        yield found


def clean(driver: Any) -> None:
    """Nothing that a model wrote has run, and the console has nothing to say."""
    assert driver.execute_script("return window.stolen === undefined")
    assert browser.complaints(driver) == []


def test_the_page_opens_with_figures_and_the_diagnosis(driver: Any, address: str) -> None:
    browser.visit(driver, address)
    browser.until(lambda: "exploitation-ended" in browser.text_of(driver), "the diagnosis")
    text = browser.text_of(driver)
    assert "<b>one" in text and "40 of 40" in text and "held-out pass@1" in text
    assert len(driver.find_elements("css selector", ".drawn .main-svg")) >= 4
    clean(driver)


@pytest.mark.slow
def test_each_tab_is_drawn_and_hostile_answers_are_text(driver: Any, address: str) -> None:
    browser.visit(driver, address)
    expected = (
        "Diagnosis",
        "Entropy by position",
        "Decisions",
        "While training",
        "answers of step",
        "Learner",
        "By step",
        "Smooth over",
    )
    for number, words in enumerate(expected):
        browser.tabs(driver)[number].click()
        browser.until(lambda w=words: w in browser.text_of(driver), words)
        browser.settled(driver)
        clean(driver)
    browser.tabs(driver)[4].click()
    browser.until(lambda: driver.find_elements("css selector", ".answers summary"), "answers")
    for summary in driver.find_elements("css selector", ".answers summary"):
        summary.click()
    shown = browser.text_of(driver)
    assert HOSTILE[0] in shown and HOSTILE[1] in shown and "\\x1b[31mred" in shown and "\\u202etxet" in shown
    assert driver.find_elements("css selector", "main script, main img, main b") == []
    clean(driver)


@pytest.mark.slow
def test_rollouts_are_filtered(driver: Any, address: str) -> None:
    browser.visit(driver, f"{address}rollouts")
    driver.find_element("id", "rollouts-reason").send_keys("desrever")
    browser.until(
        lambda: (
            "1 of 6 answers" in browser.text_of(driver) or "answers of 40 steps" in browser.text_of(driver)
        ),
        "a filtered list",
    )
    assert "heading" not in browser.text_of(driver, "#rollouts-found")
    clean(driver)


@pytest.mark.slow
def test_the_token_view_works_by_keyboard_alone(driver: Any, address: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.visit(driver, f"{address}?")

    def press(*keys: str) -> None:
        driver.switch_to.active_element.send_keys(*keys)

    def focused() -> str:
        return str(
            driver.execute_script("const e = document.activeElement; return e.className + '|' + e.innerText")
        )

    for _ in range(12):  # skip link, theme, runs, then the tabs
        press(Keys.TAB)
        if "Tokens" in focused():
            break
    press(Keys.ENTER)
    browser.until(lambda: driver.find_elements("css selector", ".tok"), "tokens")
    browser.settled(driver)
    for _ in range(40):
        press(Keys.TAB)
        if focused().startswith("tok"):
            break
    press(Keys.ARROW_RIGHT)
    card = browser.until(lambda: browser.text_of(driver, "#token-card"), "the card of a token")
    assert (
        card.startswith("token\n1: ")
        and "probability" in card
        and "likeliest before" in card
        and "<i>" in card
    )
    press(Keys.END)
    browser.until(
        lambda: browser.text_of(driver, "#token-card").startswith("token\n11: "), "the last token's card"
    )
    press(Keys.ESCAPE)
    assert not driver.find_element("id", "token-card").is_displayed()
    clean(driver)


@pytest.mark.slow
def test_dark_light_and_a_phone(address: str, folder: Path) -> None:
    with browser.chromium(browser.PHONE, dark=True) as driver:
        for number in range(8):
            browser.visit(
                driver,
                address + ("", "mass", "tokens", "passk", "rollouts", "rewards", "timing", "metrics")[number],
            )
            wide = driver.execute_script(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, f"tab {number} is {wide} pixels too wide for a phone"

        def paper() -> str:
            return str(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))

        dark = paper()
        browser.set_scheme(driver, "light")
        light = paper()
        driver.find_element("css selector", ".theme").click()
        assert (dark, light, paper()) == ("rgb(18, 21, 27)", "rgb(246, 247, 249)", dark)
        clean(driver)


@pytest.mark.slow
def test_an_exported_page_works_from_a_file_without_a_network(
    driver: Any, folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "page.html"
    command = [sys.executable, "-m", "rlkit", "dash", str(folder), "--export", str(target)]
    subprocess.run(command, cwd=browser.ROOT, check=True, capture_output=True)
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    try:
        driver.get(target.as_uri())
        browser.until(lambda: driver.find_elements("css selector", ".figure .main-svg"), "figures")
        for words in ("Diagnosis", "exploitation-ended", "Reasons"):
            assert words in browser.text_of(driver)
        driver.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        driver.find_element("css selector", "input[value=entropy]").click()
        assert driver.find_element("id", "tokens-view").get_attribute("class") == "by-entropy"
        assert HOSTILE[0] in browser.text_of(driver)
        clean(driver)
    finally:
        driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
        )


@pytest.mark.slow
def test_a_real_run_is_seen_step_by_step_while_it_writes(driver: Any, tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", seed=0)
    flags = (
        "--data task:chain --sampler hf --dtype float32 --prompts-per-step 3 --num-generations 3 --max-completion-length 12 "
        "--eval-prompts 2 --workers 1 --steps 400 --no-tensorboard --track.every 2 --save-every 0 --learning-rate 1e-3"
    )
    command = [
        sys.executable,
        "-m",
        "rlkit",
        "train",
        "--model",
        str(model),
        "--output-dir",
        str(tmp_path / "runs" / "r"),
        *flags.split(),
    ]
    run = subprocess.Popen(command, cwd=browser.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        browser.until((tmp_path / "runs" / "r" / "metrics.jsonl").is_file, "the run's first step")
        with browser.dashboard(tmp_path / "runs") as address:
            browser.visit(driver, address)

            def step() -> int:
                found = driver.find_element("css selector", ".numbers dd").text.split(" ")[0]
                return int(found.replace(",", ""))

            first = browser.until(step, "a step")
            browser.until(lambda: step() >= first + 3, "three more steps, without a reload")
            assert "running" in browser.text_of(driver)
            browser.tabs(driver)[2].click()
            browser.until(lambda: driver.find_elements("css selector", ".tok"), "tokens of the newest look")
            chosen = browser.text_of(driver, "#tokens-step")
            browser.until(lambda: browser.text_of(driver, "#tokens-step") != chosen, "the next look")
            clean(driver)
    finally:
        run.kill()
        run.wait()
    assert json.loads((tmp_path / "runs" / "r" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
