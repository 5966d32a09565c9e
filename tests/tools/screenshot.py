"""Images of the pages that tokcodec writes, for README.md.

Of a page of ``tokcodec page``: python tests/tools/screenshot.py PAGE OUT.jpg [IMAGE]. WebP is on
the left and tokcodec on the right, sorted by gain, at the limit in the middle; IMAGE is part of the
name of the image that is shown, the first one if not given. weights/evaluation/page.jpg is of the
24 photos of Kodak, in a folder ``kodak`` that holds nothing else:

    tokcodec page kodak --against thumbhash,webp,jxl --bytes 100,232,434 -o page
    python tests/tools/screenshot.py page weights/evaluation/page.jpg kodim23

Of a site of ``tokcodec web``, which decodes a message and encodes a photo of tests/data:

    tokcodec web -o site
    python tests/tools/screenshot.py site weights/evaluation/web.jpg
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from tokcodec import Codec

DATA = Path(__file__).parents[1] / "data"
WIDTH, HEIGHT = 1200, 780


def chromium():
    """Headless, with its log of what it asked for."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def opened(browser, folder):
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"file://{Path(folder).resolve()}/index.html")


def seen(browser):
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def of_page(browser, image):
    browser.find_element("css selector", "#order option[value=most]").click()
    browser.find_element("css selector", f"#grid label[title*='{image}']").click()
    rows = browser.find_elements("css selector", "#versions tr")
    webp = next(row for row in rows if row.text.startswith("WebP"))
    webp.find_element("css selector", "input").click()
    browser.execute_async_script("Promise.all([left.decode(), right.decode()]).then(arguments[0])")


def of_site(browser):
    message = Codec.load().compress(DATA / "coffee.png", max_bytes=230).to_text()
    wait = WebDriverWait(browser, 120)
    browser.find_element("id", "message").send_keys(message)
    wait.until(lambda _: browser.find_elements("css selector", "#images figure"))
    browser.find_element("id", "choose").send_keys(str(DATA / "chelsea.png"))
    wait.until(lambda _: browser.find_element("id", "result").is_displayed())


def screenshot(folder, image):
    browser = chromium()
    try:
        opened(browser, folder)
        if browser.find_elements("id", "versions"):
            of_page(browser, image)
        else:
            of_site(browser)
        return seen(browser)
    finally:
        browser.quit()


if __name__ == "__main__":
    folder, output, image = (*sys.argv[1:], "")[:3]
    screenshot(folder, image).save(output, quality=88, subsampling=0)
