"""Seconds of the page of ``tokcodec web`` in headless Chromium: python tests/benchmarks/web.py

From opening it to a loaded model, from a message to its image, and from an image to its message.
The worker computes in one thread.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from selenium.webdriver.support.wait import WebDriverWait

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from screenshot import chromium

from tokcodec import Codec, write_site

PHOTO = Path(__file__).parents[1] / "data" / "coffee.png"
TOKENS = (64, 256, 1024)
BYTES = (100, 230, 1000)
SECONDS = 300  # that anything may take
DECODE = """
    images.replaceChildren();
    message.value = arguments[0];
    message.dispatchEvent(new Event("input"));
"""
ENCODE = """
    result.hidden = true;
    limit.value = arguments[0];
    limit.dispatchEvent(new Event("change"));
"""
DECODED = "return images.children.length === 1 && progress.hidden"
ENCODED = "return !result.hidden && progress.hidden"


def main() -> None:
    codec = Codec.load(device="cpu", runtime="numpy")
    browser = chromium()
    run = browser.execute_script

    def report(what, start, condition):
        begin = time.perf_counter()
        start()
        wait = WebDriverWait(browser, SECONDS, 0.02)
        wait.until(lambda _: run(condition))
        print(f"{time.perf_counter() - begin:6.2f} s  {what}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        page = write_site(folder)
        report("load", partial(browser.get, f"file://{page}"), "return progress.hidden")
        for count in TOKENS:
            text = codec.compress(PHOTO, tokens=count).to_text()
            report(f"decode {count} tokens", partial(run, DECODE, text), DECODED)
        field = browser.find_element("css selector", "#choose")
        report("choose, and encode to 230 bytes", partial(field.send_keys, str(PHOTO)), ENCODED)
        for limit in BYTES:
            report(f"encode to {limit} bytes", partial(run, ENCODE, limit), ENCODED)
    browser.quit()


if __name__ == "__main__":
    main()
