"""The page in a real browser: it draws its figures, logs no error, asks for nothing, and runs nobody else's script."""

import json
import shutil
import time
from datetime import datetime

import pytest
from run_material import write_run

from fedllm_app.report.gather import gather
from fedllm_app.report.page import page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver on this machine")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium that keeps what the page logs."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """Open the page of some runs; its errors and requests are those since then."""

    def open_page(runs, evaluations=(), width: int = 1280, dark: bool = False):
        file = tmp_path / "report.html"
        file.write_text(page(gather(runs, list(evaluations)), datetime(2026, 1, 2)), encoding="utf-8")
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get("about:blank")
        for kind in ("browser", "performance"):
            browser.get_log(kind)
        browser.get(file.as_uri())
        deadline = time.monotonic() + 30
        while not browser.execute_script("return document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0"):
            assert time.monotonic() < deadline, browser.get_log("browser")
            time.sleep(0.05)
        return browser

    return open_page


def figure(browser, name: str) -> dict:
    """The traces and the layout of a drawn figure."""
    script = (
        "const plot = document.getElementById('figure-' + arguments[0]);"
        "return {traces: plot._fullData.map(t => ({name: t.name, x: Array.from(t.x), y: Array.from(t.y),"
        " color: t.line && t.line.color})), width: plot._fullLayout.width, height: plot._fullLayout.height};"
    )
    return browser.execute_script(script, name)


def requests(browser) -> list[str]:
    """Addresses that were asked for, the page's own aside."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [address for address in sent if not address.startswith(("file:", "data:", "blob:", "about:"))]


def test_figures_show_the_numbers_and_nothing_is_logged(opened, tmp_path):
    """Held-out loss 5, 3, 2 by round; the base at 5; each client beside it. No request leaves the machine."""
    browser = opened([write_run(tmp_path / "run")])
    traces = {trace["name"]: trace for trace in figure(browser, "held-out-eval_loss")["traces"] if trace["name"]}
    assert (traces["all clients"]["x"], traces["all clients"]["y"]) == ([0, 1, 2], [5, 3, 2])
    assert traces["1 south"]["y"] == [5.5, 3.5, 2.5]
    assert traces["base (round 0)"]["y"] == [5, 5]
    assert browser.get_log("browser") == []
    assert requests(browser) == []


def test_no_word_of_a_client_becomes_a_script(opened, evil_runs, evaluation):
    """Names, reasons, data, suites and answers that are markup: nothing ran, nothing was drawn as an element."""
    browser = opened(evil_runs, [evaluation])
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.title.startswith("fedavg, local on")
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.execute_script("return document.querySelectorAll('a:not(nav a), main script, main a').length") == 0
    assert browser.get_log("browser") == []
    names = {trace["name"] for trace in figure(browser, "training-loss")["traces"]}
    assert {"together", "alone"} <= names
    body = browser.execute_script("return document.body.innerText")
    assert "<script>document.title='owned'</script>" in body


def test_an_injected_script_would_not_run(opened, tmp_path):
    """The policy names the page's own scripts."""
    browser = opened([write_run(tmp_path / "run")])
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'x = 1'; document.body.append(s)"
    )
    (refused,) = browser.get_log("browser")
    assert "Content Security Policy" in refused["message"]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(opened, evil_runs, evaluation, width):
    """Wide tables scroll inside their frame; figures take the width that there is."""
    browser = opened(evil_runs, [evaluation], width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    drawn = figure(browser, "training-loss")
    assert width / 2 < drawn["width"] <= width


def test_the_page_follows_a_dark_screen_and_prints_on_white(opened, tmp_path):
    """Black ink on white, white ink on a dark ground; on paper as on white, and as wide as a sheet."""
    run = write_run(tmp_path / "run")
    ink = "return getComputedStyle(document.body).color"
    mean = "return [...document.getElementById('figure-training-loss')._fullData].pop().line.color"
    light = opened([run])
    light_ink, light_line = light.execute_script(ink), light.execute_script(mean)
    dark = opened([run], dark=True)
    assert dark.execute_script(ink) != light_ink
    assert dark.execute_script(mean) != light_line
    drawn = "document.getElementById('figure-training-loss')"
    dark.execute_script(
        "window.seen = []; addEventListener('beforeprint', () => seen.push("
        f"[{drawn}._fullLayout.width, [...{drawn}._fullData].pop().line.color]))"
    )
    dark.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert dark.execute_script("return seen") == [[690, "#000"]]
    assert figure(dark, "training-loss")["width"] > 690
    assert dark.execute_script(mean) not in ("#000", light_line)


def test_every_column_of_two_usual_runs_is_seen_on_a_usual_screen(opened, tmp_path):
    """Two runs called after their strategy and time, on a file: no table but the map of rounds needs to scroll."""
    names = {0: "hospital-north", 1: "hospital-south"}
    data = "/data/clinics/discharge-letters-2025.jsonl"
    runs = [
        write_run(tmp_path / f"{name}-20260102-030405", names=names, data__name=data, strategy__name=name)
        for name in ("fedavg", "local")
    ]
    browser = opened(runs)
    script = (
        "return [...document.querySelectorAll('section .scroll')].filter(one => one.scrollWidth > one.clientWidth + 1)"
        ".map(one => one.getAttribute('aria-label'))"
    )
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.execute_script(script) == []


def test_each_reason_of_a_failed_run_has_its_line(opened, tmp_path):
    """Four clients, four lines below the first one."""
    reasons = "\n".join(f"  client {number}: no rows" for number in range(4))
    run = write_run(tmp_path / "run", ends=f"4 of 4 clients cannot take part:\n{reasons}")
    browser = opened([run])
    script = "return [...document.querySelectorAll('.notes li')].map(one => one.innerText)"
    text = next(one for one in browser.execute_script(script) if "cannot take part" in one)
    assert len(text.splitlines()) == 5
