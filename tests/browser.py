"""Pages in headless Chromium."""

import json
import re
import shutil
import time

import pytest
import torch

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
in_browser = pytest.mark.skipif(not (CHROME and DRIVER), reason="no chromium and chromedriver on this machine")


class Page:
    """A page in headless Chromium."""

    def __init__(self):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = CHROME
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.run = self.driver.execute_script

    def command(self, name, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def open(self, path, width=1280, height=900, theme="light", ready="document.body.dataset.ready"):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.driver.get_log("performance"), self.driver.get_log("browser")
        self.driver.get(path.as_uri())
        end = time.monotonic() + 60
        while not self.run(f"return {ready}"):
            assert time.monotonic() < end, self.run("return document.body.textContent")[:500]
            time.sleep(0.02)

    def set(self, **controls):
        for name, value in controls.items():
            self.run(
                "const e = document.getElementById(arguments[0]); e.type === 'checkbox' ? e.checked = arguments[1] :"
                "e.value = arguments[1]; e.dispatchEvent(new Event('change'))",
                name.rstrip("_"),
                value,
            )

    def point(self, side, word):
        """Move the mouse over a word."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.by import By

        element = self.driver.find_elements(By.CSS_SELECTOR, f"#{side} .word")[word]
        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def named(self):
        """Pairs (role, name) of all that a screen reader finds."""
        nodes = self.command("Accessibility.getFullAXTree")["nodes"]
        return {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if "role" in node}

    def weights(self, side):
        selector = f"#{side} .word"
        values = self.run("return [...document.querySelectorAll(arguments[0])].map(e => +e.dataset.weight)", selector)
        return torch.tensor(values, dtype=torch.float32)

    def text(self, id_):
        return self.run("return document.getElementById(arguments[0]).textContent", id_)

    def check_quiet(self):
        """No error, no warning, and no request but for the page itself and what it holds."""
        assert self.driver.get_log("browser") == []
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert sent and all(re.match("file:|data:|about:", url) for url in sent), sent
