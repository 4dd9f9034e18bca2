"""The page in a real browser, gone through as somebody does who wants to sing, and what axe says of it."""

import gzip
import shutil
from pathlib import Path

import pytest

from tests.studio.conftest import wait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER),
                                reason="no Chromium here: apt-get install chromium chromium-driver")
LYRICS = "[verse]\nla la\nlu lu"
# What Web Audio is told to play: how many pieces, and the loudest sample.
LISTEN = """
window.heard = {pieces: 0, loudest: 0};
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (...when) {
  heard.pieces += 1;
  for (const x of this.buffer.getChannelData(0)) heard.loudest = Math.max(heard.loudest, Math.abs(x));
  return start.apply(this, when);
};
"""
LOUDEST = """
const done = arguments[0];
(async () => {
  const data = await (await fetch(document.querySelector("#downloads a").href)).arrayBuffer();
  const audio = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(data);
  done([audio.duration, Math.max(...audio.getChannelData(0).map(Math.abs))]);
})();
"""


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900",
                     "--autoplay-policy=no-user-gesture-required"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """The page as it is seen: `page["sing"]` is the element of that id."""

    def __init__(self, browser, port):
        self.browser = browser
        browser.get(f"http://127.0.0.1:{port}/")
        browser.execute_script(LISTEN)

    def __getitem__(self, name):
        return self.browser.find_element("id", name)

    def run(self, script):
        return self.browser.execute_script(f"return {script}")

    def press(self, name):
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", self[name])
        self[name].click()

    def wait(self, script):
        return wait(lambda: self.run(script), 30)

    def takes(self):
        return [take.text for take in self.browser.find_elements("css selector", "#takes .take")]

    def sing(self, seed):
        self["seed"].clear()
        self["seed"].send_keys(str(seed))
        self.press("sing")
        self.wait(f"document.querySelector('#takes .open')?.textContent.includes('seed {seed} ')")

    def choose(self, model):
        self.run(f"(document.getElementById('model').value = '{model}', document.getElementById('model').onchange())")

    def problems(self):
        """What axe finds, each with where."""
        found = self.browser.execute_async_script("""
            const done = arguments[0];
            axe.run(document, {resultTypes: ["violations"]}).then(({violations}) => done(violations.map(
              ({id, nodes}) => id + ": " + nodes.map((node) => node.html.slice(0, 120)).join(" "))));""")
        return found


def test_somebody_sings(server, toy_models, browser):
    port, singer = server(), toy_models["stepwise"].singer
    page = Page(browser, port)
    page.wait("document.querySelectorAll('#model option').length === 2")
    page["lyrics"].send_keys("[vrse]\nla la\nlu lu")
    page.wait("document.getElementById('strange').textContent.includes('[vrse]')")
    page["lyrics"].clear()
    page["lyrics"].send_keys(LYRICS)
    page.wait("document.getElementById('count').textContent.startsWith('2 lines, 10 characters')")
    page["genre"].send_keys("pop")
    page["duration"].send_keys("4")
    page["temperature"].send_keys("1")

    # It is heard while it is being sung.
    singer.hold()
    page.sing(1)
    singer.let_on(2)
    page.wait("heard.pieces === 2 && heard.loudest > 0.001")
    page.wait("document.getElementById('live-about').textContent.includes('to hear')")

    # After a reload it goes on, and can be listened to from its beginning.
    browser.refresh()
    browser.execute_script(LISTEN)
    page.wait("document.getElementById('lyrics').value.includes('lu lu') && !document.getElementById('live').hidden")
    page.press("listen")
    singer.let_on()
    page.wait("heard.pieces > 0 && !document.getElementById('player').hidden")
    page.wait("document.querySelectorAll('#lines button').length > 0")
    seconds, loudest = browser.execute_async_script(LOUDEST)
    assert seconds == pytest.approx(4, abs=0.2) and loudest > 0.001
    if page["play"].get_attribute("aria-label") == "Play":  # else it goes on from where it was heard
        page.press("play")
    page.wait("Number(document.getElementById('wave').getAttribute('aria-valuenow')) > 0.1")

    # Cancelled.
    singer.hold()
    page["duration"].send_keys("4")
    page.sing(2)
    page.press("cancel")
    page.wait("document.getElementById('status').textContent === 'Cancelled.'")
    singer.let_on()
    wait(lambda: len(page.takes()) == 1)

    # A part of another song is sung anew, by dragging; the two are compared.
    page.choose("masked")
    page["lyrics"].clear()
    page["lyrics"].send_keys(LYRICS)
    page.sing(3)
    page.wait("!document.getElementById('player').hidden && !document.getElementById('editing').hidden")
    from selenium.webdriver.common.action_chains import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", page["wave"])
    ActionChains(browser).move_to_element_with_offset(page["wave"], -150, 0).click_and_hold().move_by_offset(
        60, 0).move_by_offset(140, 0).release().perform()
    page.wait("Number(document.getElementById('to').value) > Number(document.getElementById('from').value)")
    page["edit-lyrics"].clear()
    page["edit-lyrics"].send_keys("lo lo")
    page.press("edit-sing")
    page.wait("document.querySelector('#takes .open')?.textContent.includes('a part sung anew')")
    page.wait("!document.getElementById('player').hidden")
    assert "--edit=" in page["command"].get_attribute("textContent")
    browser.find_element("css selector", "#takes li:nth-child(2) [aria-pressed]").click()
    page.wait("document.getElementById('b').getAttribute('aria-pressed') === 'true'")
    assert page["deck-title"].text == "la la"
    page.press("a")
    page.wait("document.getElementById('deck-title').textContent === 'lo lo'")

    # Nothing stands in the way of those who do not see it, in light and dark, on a desk and on a phone.
    axe = gzip.decompress((Path(__file__).parent / "axe-4.14.1.min.js.gz").read_bytes()).decode()
    browser.execute_script(axe)
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    assert not page.problems()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
        {"name": "prefers-color-scheme", "value": "dark"}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True})
    assert not page.problems()
    assert page.run("document.documentElement.scrollWidth") == 390
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
