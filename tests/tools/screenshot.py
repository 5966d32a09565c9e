"""An image of a page of ``tokcodec page``: python tests/tools/screenshot.py PAGE OUT.jpg [IMAGE]

WebP stands on the left and tokcodec on the right, sorted by gain, at the limit in the middle;
IMAGE is part of the name of the image that is shown, the first one if not given.
weights/evaluation/page.jpg is of the
24 photos of Kodak, in a folder ``kodak`` that holds nothing else:

    tokcodec page kodak --against thumbhash,webp,jxl --bytes 100,232,434 -o page
    python tests/tools/screenshot.py page weights/evaluation/page.jpg kodim23
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver

WIDTH, HEIGHT = 1200, 780


def chromium():
    """Headless, with its log of what it asked for."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def screenshot(page, image):
    browser = chromium()
    try:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(f"file://{Path(page).resolve()}/index.html")
        browser.find_element("css selector", "#order option[value=most]").click()
        browser.find_element("css selector", f"#grid label[title*='{image}']").click()
        rows = browser.find_elements("css selector", "#versions tr")
        webp = next(row for row in rows if row.text.startswith("WebP"))
        webp.find_element("css selector", "input").click()
        browser.execute_async_script(
            "Promise.all([left.decode(), right.decode()]).then(arguments[0])"
        )
        return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    finally:
        browser.quit()


if __name__ == "__main__":
    page, output, image = (*sys.argv[1:], "")[:3]
    screenshot(page, image).save(output, quality=88, subsampling=0)
