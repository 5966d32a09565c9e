"""The page: what it holds, from what, and how it behaves in a browser."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import DATA, PHOTOS
from PIL import Image

pytest.importorskip("torchmetrics")

from tokcodec.config import PreprocessingConfig
from tokcodec.evaluate.metrics import psnr
from tokcodec.image import read_tiles

pytestmark = pytest.mark.metrics

OWN = ("own", "thumbhash")

# What an image's name must not become on the page.
WICKED = "</script><img src=x onerror=alert(1)>&amp;'\".png"


def read(folder):
    """The page's text, the data in it, and every element with its attributes."""
    text = (folder / "index.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    elements = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: elements.append((tag, dict(attributes)))
    parser.feed(text)
    return text, data, elements


def read_after(run, *command):
    """The images on the page that a command writes into its last argument."""
    run(*command)
    return read(command[-1])[1]["images"]


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    """A page of three photos, one of a wicked name, and of a flat image that any codec can."""
    photos = tmp_path_factory.mktemp("photos")
    for photo in PHOTOS[:2]:
        shutil.copy(photo, photos)
    (photos / WICKED.rpartition("/")[0]).mkdir()
    shutil.copy(PHOTOS[2], photos / WICKED)
    Image.new("RGB", (300, 300), (90, 120, 150)).save(photos / "flat.png")
    folder = tmp_path_factory.mktemp("page")
    run(
        *("page", photos, "-o", folder, "--against", "webp,thumbhash"),
        *("--weights", "tokcodec", "--weights", "tokcodec"),
    )
    return folder


def test_every_version_of_every_image_is_there(run, measured):
    _, data, elements = read(measured)
    assert [choice["label"] for choice in data["choices"]] == [
        *("original", "tokcodec, entropy-coded", "ThumbHash", "WebP"),
        *("tokcodec, entropy-coded", "ThumbHash", "WebP"),
    ]
    own = [choice["id"] for choice in data["choices"] if choice.get("own")]
    for number, image in enumerate(data["images"]):
        assert image["shape"] == [256, 256]
        chosen, versions = image["chosen"], image["versions"]
        # The same ThumbHash serves in the bytes of both checkpoints.
        assert chosen["1 thumbhash"] == chosen["3 thumbhash"]
        assert versions[chosen["3 webp"]]["bytes"] <= versions[chosen["3 own"]]["bytes"]
        for index in range(len(versions)):
            assert Image.open(measured / f"images/{number}-{index}.webp").size == (256, 256)
        assert Image.open(measured / f"images/{number}-small.webp").size == (144, 144)
    assert {p["name"] for p in data["images"]} >= {"astronaut.png", WICKED}
    astronaut = next(p for p in data["images"] if p["name"] == "astronaut.png")
    assert "1 webp" not in astronaut["chosen"]
    # The figures of evaluate.
    command = ("evaluate", PHOTOS[0], "--weights", "tokcodec", "--against", "webp", "--json")
    _, entropy_coded = json.loads(run(*command).stdout)["rows"]
    for choice, mean in ((own[1], entropy_coded["own"]), ("3 webp", entropy_coded["baselines"][0])):
        version = astronaut["versions"][astronaut["chosen"][choice]]
        assert version["bytes"] == mean["file_bytes"]
        assert version["scores"] == [mean["psnr"], mean["ms_ssim"]]
    shown = {
        attributes["src"] for tag, attributes in elements if tag == "img" and attributes.get("src")
    }
    assert shown == {"psnr.svg", "ms_ssim.svg"}
    assert all((measured / name).is_file() for name in shown)


def test_nothing_of_a_name_becomes_markup(measured):
    text, data, elements = read(measured)
    assert sum(image["name"].endswith(WICKED) for image in data["images"]) == 1
    assert "onerror" not in {name for _, attributes in elements for name in attributes}
    assert [tag for tag, _ in elements].count("script") == 2
    # And if something did, the policy would not let it run.
    policy = next(a["content"] for tag, a in elements if a.get("http-equiv"))
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in text


def test_of_token_files_and_their_originals(run, tmp_path):
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    shutil.copy(PHOTOS[0], photos / "a.png")
    shutil.copy(PHOTOS[1], photos / "sub" / "b.png")
    for name in ("tokcodec", "tokcodec"):
        run("encode", photos, "-o", tmp_path / name, "--weights", name, "--entropy-coded")
    both = [tmp_path / name for name in ("tokcodec", "tokcodec")]

    run("page", *both, "-o", tmp_path / "bare")
    _, data, elements = read(tmp_path / "bare")
    assert [choice["label"] for choice in data["choices"]] == [
        "tokcodec, entropy-coded",
        "tokcodec, entropy-coded",
    ]
    assert [image["name"] for image in data["images"]] == ["a.png", "sub/b.png"]
    assert data["images"][1]["shape"] == list(Image.open(PHOTOS[1]).size)
    sizes = [(folder / "sub" / "b.png.tok").stat().st_size for folder in both]
    assert [version["bytes"] for version in data["images"][1]["versions"]] == sizes
    assert all(version["scores"] == [] for version in data["images"][1]["versions"])
    assert "img" not in [tag for tag, attributes in elements if "src" in attributes]

    (photos / "a.png").unlink()
    done = run(
        *("page", *both, "--originals", photos, "--against", "thumbhash", "-o", tmp_path / "page"),
        status=3,
    )
    assert b"a.png: its image is not in --originals" in done.stderr
    _, data, _ = read(tmp_path / "page")
    (image,) = data["images"]
    assert set(image["chosen"]) == {"original", *(f"{n} {o}" for n in (0, 1) for o in OWN)}
    square = read_tiles(PHOTOS[1], PreprocessingConfig(), "stretch").pixels[0]
    for place, folder in enumerate(both):
        version = image["versions"][image["chosen"][f"{place} own"]]
        run(
            *("decode", folder / "sub" / "b.png.tok", "--size", "256x256"),
            *("-o", tmp_path / f"{place}.png"),
        )
        decoded = np.asarray(Image.open(tmp_path / f"{place}.png"))
        assert version["scores"][0] == pytest.approx(psnr(square, decoded), abs=5e-5)
        assert version["bytes"] == sizes[place]


@pytest.mark.parquet
def test_of_a_dataset(run, tmp_path, tiny):
    pytest.importorskip("pyarrow")
    (tmp_path / "bad.png").write_bytes(b"no image")
    inputs = (*PHOTOS, tmp_path / "bad.png")
    run("tokenize", *inputs, "-o", tmp_path / "set", "--weights", tiny, status=3)
    done = run("page", tmp_path / "set", "--weights", tiny, "-o", tmp_path / "page", status=3)
    assert b"bad.png: has no tokens" in done.stderr
    _, data, _ = read(tmp_path / "page")
    assert [image["name"] for image in data["images"]] == [photo.name for photo in PHOTOS]
    assert {v["bytes"] for p in data["images"] for v in p["versions"]} == {29}
    done = run("page", tmp_path / "set", "--weights", tiny, "-o", tmp_path / "page", status=1)
    assert b"holds index.html already (-f overwrites it)" in done.stderr
    command = ("page", tmp_path / "set", "--weights", tiny, "-f", "-o", tmp_path / "page")
    assert b"the first 2 images" in run(*command, "--limit", 2).stderr
    assert len(list((tmp_path / "page" / "images").glob("*-small.webp"))) == 2
    run("tokenize", PHOTOS[0], "-o", tmp_path / "ten", "--weights", tiny, "--views", "ten-crop")
    command = ("page", tmp_path / "ten", "--weights", tiny, "-f", "-o", tmp_path / "page")
    assert len(read_after(run, *command)) == 10
    assert b"ten crops" in run(*command, "--originals", DATA, status=1).stderr


def test_bad_input_is_named(run, tmp_path, tiny):
    run("encode", PHOTOS[0], "-o", tmp_path / "a.tok", "--weights", tiny)
    run("encode", PHOTOS[0], "-o", tmp_path / "b.tok", "--weights", tiny, "--fit", "crop")
    run("encode", PHOTOS[0], "-o", tmp_path / "c.tok", "--weights", tiny, "--fit", "tile")
    out = ("-o", tmp_path / "page")

    def said(*arguments, status=1):
        return run("page", *arguments, *out, status=status).stderr

    assert b"token files have theirs" in said(tmp_path / "a.tok", "--fit", "crop", status=2)
    assert b"take one kind" in said(tmp_path / "a.tok", PHOTOS[0], status=2)
    assert b"their own originals" in said(PHOTOS[0], "--originals", DATA, status=2)
    assert b"a: its tokens are of model" in said(tmp_path / "a.tok")
    two = (tmp_path / "a.tok", tmp_path / "b.tok", "--weights", tiny)
    assert b"token files of several fits, crop, stretch: take one" in said(*two)
    assert b"its fit is tile, and a page shows single tiles: decode it" in said(
        tmp_path / "c.tok", "--weights", tiny
    )
    assert not (tmp_path / "page" / "index.html").exists()


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, with its log of what it asked for."""
    pytest.importorskip("selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Debian's chromium and chromium-driver")
    from screenshot import chromium

    driver = chromium()
    yield driver
    driver.quit()


@pytest.mark.browser
def test_in_a_browser(browser, measured):
    from selenium.webdriver.common.keys import Keys

    def find(selector):
        return browser.find_element("css selector", selector)

    def text(selector):
        return find(selector).text

    def view():
        """What is seen of the right image."""
        return find("#right").value_of_css_property("clip-path")

    def source(side):
        return find(f"#{side}").get_attribute("src").rpartition("/")[2]

    def names():
        return [
            label.get_attribute("title")
            for label in browser.find_elements("css selector", "#grid label")
        ]

    def gains():
        shown = browser.find_elements("css selector", "#grid label span:last-child")
        return [float(span.text.removesuffix(" dB")) for span in shown]

    browser.set_window_size(1200, 900)
    browser.get(f"file://{measured}/index.html")
    data = read(measured)[1]
    given = [image["name"] for image in data["images"]]
    assert names() == given
    assert browser.execute_script("return right.complete && right.naturalWidth") == 256

    # The slider, by the keyboard and by the pointer.
    assert view() == "inset(0px 0px 0px 50%)"
    find("#slider").send_keys(Keys.HOME)
    assert view() == "inset(0px 0px 0px 0%)"
    find("#slider").send_keys(Keys.ARROW_RIGHT * 3)
    assert view() == "inset(0px 0px 0px 3%)"
    find("#slider").click()
    assert view() == "inset(0px 0px 0px 50%)"
    assert "solid" in find("#stage").value_of_css_property("outline")

    # Either side shows what is chosen.
    assert (source("left"), text("#left-caption")) == ("0-0.webp", "original")
    assert text("#right-caption").startswith("tokcodec, entropy-coded\n")
    rows = browser.find_elements("css selector", "#versions tr")
    assert len(rows) == len(data["images"][0]["versions"])
    webp = next(row for row in rows if "WebP" in row.text)
    webp.find_elements("css selector", "input")[0].click()
    assert text("#left-caption").startswith("WebP\n")
    version = data["images"][0]["versions"][int(source("left")[2:-5])]
    assert f"{version['bytes']} bytes, {version['scores'][0]:.2f} dB" in text("#left-caption")
    assert f"{version['bytes']} {version['scores'][0]:.2f}" in webp.text
    # A row of radio buttons is one stop, whose arrows choose.
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert source("left") != f"0-{data['images'][0]['versions'].index(version)}.webp"

    # Sorting, by gains that are those of the figures.
    def gain(image):
        scores = {
            choice: image["versions"][image["chosen"][choice]]["scores"][0]
            for choice in ("3 own", "3 webp", "3 thumbhash")
            if choice in image["chosen"]
        }
        return scores.pop("3 own") - max(scores.values())

    expected = sorted(map(gain, data["images"]))
    assert gains() == pytest.approx(list(map(gain, data["images"])), abs=0.0051)
    find("#order option[value=least]").click()
    assert gains() == pytest.approx(expected, abs=0.0051)
    find("#order option[value=most]").click()
    assert gains() == pytest.approx(expected[::-1], abs=0.0051)
    assert text("#name") == names()[0]
    ordered = names()
    find("#grid input:checked").send_keys(Keys.ARROW_RIGHT)
    assert text("#name") == ordered[1]
    find("#previous").click()
    find("#previous").click()
    assert text("#name") == ordered[-1]
    find("#order option[value=given]").click()
    assert names() == given

    # The name of an image is text.
    wicked = next(n for n, name in enumerate(given) if name.endswith(WICKED))
    browser.find_elements("css selector", "#grid img")[wicked].click()
    assert text("#name") == given[wicked]
    # What a codec has no file for is said in words.
    browser.find_elements("css selector", "#grid img")[
        given.index(next(n for n in given if "astronaut" in n))
    ].click()
    assert "no file this small: WebP" in text("#absent")

    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) > 5
    assert all(url.startswith(f"file://{measured}/") for url in asked)
    assert browser.get_log("browser") == []


@pytest.mark.browser
def test_on_a_phone_and_from_a_server(browser, measured):
    handler = partial(SimpleHTTPRequestHandler, directory=measured)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True},
        )
        browser.get(f"http://127.0.0.1:{server.server_port}/index.html")
        width = "return [document.documentElement.scrollWidth, innerWidth]"
        assert browser.execute_script(width) == [320, 320]
        # What the policy forbids does not come, wherever it is on the page.
        tried = """
            const [url, done] = arguments;
            document.addEventListener("securitypolicyviolation", (event) => done(event.blockedURI));
            document.body.append(Object.assign(new Image(), { src: url }));
        """
        elsewhere = f"http://localhost:{server.server_port}/psnr.svg"
        assert browser.execute_async_script(tried, elsewhere) == elsewhere
        server.shutdown()
