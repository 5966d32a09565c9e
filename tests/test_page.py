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
import small_models
from conftest import DATA, PHOTOS
from PIL import Image

pytest.importorskip("torchmetrics")

import tokcodec
from tokcodec import Codec
from tokcodec.errors import EvaluationError, OutputError, TokcodecError
from tokcodec.evaluate.metrics import psnr

pytestmark = pytest.mark.metrics

# What an image's name must not become on the page.
WICKED = "</script><img src=x onerror=alert(1)>&amp;'\".png"
LIMITS = (50, 120, 300)
EDGE = 224


def read(folder):
    """The page's text, the data in it, and every element with its attributes."""
    text = (folder / "index.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    elements = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: elements.append((tag, dict(attributes)))
    parser.feed(text)
    return text, data, elements


def page(sources, folder, *weights, **options):
    """A page by one process; gives its report and its data."""
    report = tokcodec.page(
        [str(source) for source in sources],
        folder,
        **{
            "weights": [str(name) for name in weights],
            "device": "cpu",
            "max_edge": EDGE,
            **options,
        },
    )
    return report, read(folder)[1]


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    """A page of three photos, one of a wicked name, and of a flat image that any codec can."""
    photos = tmp_path_factory.mktemp("photos")
    for photo in PHOTOS[:2]:
        shutil.copy(photo, photos)
    (photos / WICKED.rpartition("/")[0]).mkdir()
    shutil.copy(PHOTOS[2], photos / WICKED)
    Image.new("RGB", (300, 300), (90, 120, 150)).save(photos / "flat.png")
    folder = tmp_path_factory.mktemp("page")
    options = {"baselines": ("webp", "thumbhash"), "bytes": LIMITS}
    report, _ = page([photos], folder, tiny, **options)
    assert report.images == 4
    return folder


def test_every_version_of_every_image_is_there(measured):
    _, data, elements = read(measured)
    assert [(choice["label"], choice.get("rate")) for choice in data["choices"]] == [
        ("original", None),
        *(
            (label, f"{limit} bytes")
            for limit in LIMITS
            for label in ("patch", "ThumbHash", "WebP")
        ),
    ]
    for number, image in enumerate(data["images"]):
        chosen, versions = image["chosen"], image["versions"]
        assert chosen["0 thumbhash"] == chosen["1 thumbhash"] == chosen["2 thumbhash"]
        for place, limit in enumerate(LIMITS):
            for codec in ("own", "webp"):
                if (choice := f"{place} {codec}") in chosen:
                    assert versions[chosen[choice]]["bytes"] <= limit
        size = tuple(image["shape"])
        for index in range(len(versions)):
            assert Image.open(measured / f"images/{number}-{index}.webp").size == size
        small = Image.open(measured / f"images/{number}-small.webp").size
        assert max(small) == 144
        assert small[0] / small[1] == pytest.approx(size[0] / size[1], rel=0.02)
    shapes = {image["name"]: image["shape"] for image in data["images"]}
    assert set(shapes) >= {"astronaut.png", WICKED}
    assert shapes["astronaut.png"] == [EDGE, EDGE]
    assert shapes["chelsea.png"] == [265, 176]  # the shorter edge as MS-SSIM needs it
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


def test_checkpoints_of_several_sizes_are_compared(tmp_path):
    weights = [tmp_path / f"{size}.safetensors" for size in (176, 192)]
    for path, size in zip(weights, (176, 192), strict=True):
        small_models.write(path, small_models.squares(size))
    options = {"baselines": ("webp",), "tokens": (64,)}
    report, data = page(PHOTOS[:1], tmp_path / "page", *weights, **options)
    assert [row.size for row in report.rows] == [176, 192]
    labels = ["original", *(f"{name}, {n}x{n}" for n in (176, 192) for name in (str(n), "WebP"))]
    assert [choice["label"] for choice in data["choices"]] == labels
    (image,) = data["images"]
    sizes = {
        choice: Image.open(tmp_path / "page" / "images" / f"0-{version}.webp").width
        for choice, version in image["chosen"].items()
    }
    expected = {"original": 192, "0 own": 176, "0 webp": 176, "1 own": 192, "1 webp": 192}
    assert sizes.items() <= expected.items()
    assert set(sizes) >= {"original", "0 own", "1 own"}


# Token files and datasets


@pytest.fixture(scope="module")
def codec(tiny):
    return Codec.load(str(tiny), device="cpu")


@pytest.fixture
def encoded(codec, tmp_path):
    """Two photos, and folders of their token files at two numbers of tokens, of any grids."""
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    shutil.copy(PHOTOS[0], photos / "a.png")
    shutil.copy(PHOTOS[1], photos / "sub" / "b.png")
    folders = []
    for tokens in (100, 400):
        folder = tmp_path / f"{tokens} tokens"
        folders.append(folder)
        for name in ("a.png", "sub/b.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            file = codec.compress(photos / name, fit="aspect", tokens=tokens)
            file.save(folder / f"{name}.tok")
    return photos, folders


def test_token_files_are_shown_as_they_are(encoded, tiny, tmp_path):
    _, folders = encoded
    report, data = page(folders, tmp_path / "page", tiny)
    assert not report.compared
    labels = [choice["label"] for choice in data["choices"]]
    assert labels == ["patch, 100 tokens", "patch, 400 tokens"]
    assert [image["name"] for image in data["images"]] == ["a.png", "sub/b.png"]
    sizes = [(folder / "sub" / "b.png.tok").stat().st_size for folder in folders]
    versions = data["images"][1]["versions"]
    assert [version["bytes"] for version in versions] == sizes
    assert all(version["scores"] == [] for version in versions)
    width, height = data["images"][1]["shape"]
    original = Image.open(PHOTOS[1]).size
    assert width / height == pytest.approx(original[0] / original[1], rel=0.02)


def test_token_files_are_compared_with_their_originals(encoded, codec, tiny, tmp_path):
    photos, folders = encoded
    (photos / "a.png").unlink()
    options = {"originals": [str(photos)], "baselines": ("thumbhash",)}
    report, data = page(folders, tmp_path / "page", tiny, **options)
    assert (report.images, report.failed, report.compared) == (1, 1, True)
    (image,) = data["images"]
    assert set(image["chosen"]) == {
        "original",
        *(f"{place} {codec}" for place in (0, 1) for codec in ("own", "thumbhash")),
    }
    size = tuple(image["shape"])
    original = Image.open(PHOTOS[1]).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    for place, folder in enumerate(folders):
        version = image["versions"][image["chosen"][f"{place} own"]]
        decoded = np.asarray(codec.decompress(folder / "sub" / "b.png.tok", size=size))
        assert version["scores"][0] == pytest.approx(psnr(np.asarray(original), decoded), abs=5e-3)


@pytest.mark.parametrize("fit", ["crop", "pad", "tile"])
def test_originals_are_cut_as_the_fit_cuts_them(codec, tiny, tmp_path, fit):
    codec.compress(PHOTOS[1], fit=fit).save(tmp_path / "a.tok")
    shutil.copy(PHOTOS[1], tmp_path / "a")
    options = {"originals": [str(tmp_path / "a")], "baselines": ()}
    report, data = page([tmp_path / "a.tok"], tmp_path / "page", tiny, **options)
    assert report.images == 1
    width, height = data["images"][0]["shape"]
    assert (width == height) == (fit == "crop")
    assert report.rows[0].own.psnr > 8


@pytest.mark.parquet
def test_rows_of_a_dataset(run, tmp_path, tiny):
    pytest.importorskip("pyarrow")
    (tmp_path / "bad.png").write_bytes(b"no image")
    inputs = (*PHOTOS, tmp_path / "bad.png")
    run("tokenize", *inputs, "-o", tmp_path / "set", "--weights", tiny, status=3)
    report, data = page([tmp_path / "set"], tmp_path / "page", tiny)
    assert (report.images, report.failed) == (3, 1)
    assert [image["name"] for image in data["images"]] == [photo.name for photo in PHOTOS]
    with pytest.raises(OutputError):
        page([tmp_path / "set"], tmp_path / "page", tiny)
    report, _ = page([tmp_path / "set"], tmp_path / "page", tiny, overwrite=True, limit=2)
    assert (report.images, report.cut) == (2, True)
    assert len(list((tmp_path / "page" / "images").glob("*-small.webp"))) == 2


@pytest.mark.parquet
def test_ten_crops_have_no_original(run, tmp_path, tiny):
    pytest.importorskip("pyarrow")
    run("tokenize", PHOTOS[0], "-o", tmp_path / "ten", "--weights", tiny, "--views", "ten-crop")
    _, data = page([tmp_path / "ten"], tmp_path / "page", tiny)
    assert len(data["images"]) == 10
    with pytest.raises(TokcodecError):
        page([tmp_path / "ten"], tmp_path / "other", tiny, originals=[str(DATA)])


def test_an_output_among_the_originals_is_refused(encoded, tiny):
    photos, folders = encoded
    with pytest.raises(OutputError):
        page(folders, photos / "page", tiny, originals=[str(photos)])
    assert not (photos / "page").exists()


def test_sources_that_make_no_page(run, codec, tmp_path, tiny):
    codec.compress(PHOTOS[0]).save(tmp_path / "a.tok")
    (tmp_path / "bad.tok").write_bytes(b"no tokens")
    for sources, error, options in (
        ([tmp_path / "a.tok", PHOTOS[0]], EvaluationError, {}),
        ([PHOTOS[0]], EvaluationError, {"originals": [str(DATA)]}),
        ([tmp_path / "a.tok"], TokcodecError, {}),  # of an unknown model
        ([tmp_path / "bad.tok"], TokcodecError, {}),
    ):
        with pytest.raises(error):
            page(sources, tmp_path / "page", **options)
        assert not (tmp_path / "page" / "index.html").exists()
    run("page", "-", "-o", tmp_path / "page", status=2)
    run("page", tmp_path / "a.tok", "--weights", tiny, "-o", tmp_path / "page", "--workers", 1)
    assert (tmp_path / "page" / "index.html").exists()


# In a browser


class Opened:
    """A page in the browser."""

    def __init__(self, browser, folder):
        self.browser = browser
        browser.set_window_size(1200, 900)
        browser.get(f"file://{folder}/index.html")
        self.data = read(folder)[1]
        self.given = [image["name"] for image in self.data["images"]]

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def text(self, selector):
        return self.find(selector).text

    def source(self, side):
        return self.find(f"#{side}").get_attribute("src").rpartition("/")[2]

    def names(self):
        return [label.get_attribute("title") for label in self.all("#grid label")]

    def choose(self, select, value):
        self.find(f"#{select} option[value='{value}']").click()

    def show(self, name):
        number = next(n for n, given in enumerate(self.names()) if given.endswith(name))
        self.all("#grid img")[number].click()


@pytest.fixture
def opened(browser, measured):
    return Opened(browser, measured)


@pytest.mark.browser
def test_the_slider_moves_by_keyboard_and_pointer(opened):
    from selenium.webdriver.common.keys import Keys

    def view():
        return opened.find("#right").value_of_css_property("clip-path")

    assert view() == "inset(0px 0px 0px 50%)"
    opened.find("#slider").send_keys(Keys.HOME)
    assert view() == "inset(0px 0px 0px 0%)"
    opened.find("#slider").send_keys(Keys.ARROW_RIGHT * 3)
    assert view() == "inset(0px 0px 0px 3%)"
    opened.find("#slider").click()
    assert view() == "inset(0px 0px 0px 50%)"
    assert "solid" in opened.find("#stage").value_of_css_property("outline")


@pytest.mark.browser
def test_either_side_shows_what_is_chosen(opened):
    from selenium.webdriver.common.keys import Keys

    opened.show("flat.png")
    image = next(image for image in opened.data["images"] if image["name"] == "flat.png")
    assert opened.text("#left-caption") == "original"
    assert opened.text("#right-caption").startswith("patch\n")
    webp = next(row for row in opened.all("#versions tr") if "WebP" in row.text)
    webp.find_elements("css selector", "input")[0].click()
    assert opened.text("#left-caption").startswith("WebP\n")
    version = image["versions"][int(opened.source("left").partition("-")[2][:-5])]
    facts = f"{version['bytes']} bytes, {version['scores'][0]:.2f} dB"
    assert facts in opened.text("#left-caption")
    # A row of radio buttons is one stop, whose arrows choose.
    before = opened.source("left")
    opened.browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert opened.source("left") != before


@pytest.mark.browser
def test_the_limit_changes_what_is_shown(opened):
    opened.show("chelsea.png")
    image = next(image for image in opened.data["images"] if image["name"] == "chelsea.png")
    for place, limit in enumerate(LIMITS):
        opened.choose("rate", f"{limit} bytes")
        expected = {
            image["chosen"][choice]
            for choice in ("original", *(f"{place} {c}" for c in ("own", "webp", "thumbhash")))
            if choice in image["chosen"]
        }
        assert len(opened.all("#versions tr")) == len(expected)
        own = image["versions"][image["chosen"][f"{place} own"]]
        assert f"{own['bytes']} bytes" in opened.text("#right-caption")
        assert opened.text("#left-caption") == "original"
    opened.show(WICKED)
    opened.choose("rate", f"{LIMITS[0]} bytes")
    assert "WebP" in opened.text("#absent")  # in words, because there is no file this small


@pytest.mark.browser
def test_images_are_sorted_by_their_gains(opened):
    from selenium.webdriver.common.keys import Keys

    def gains():
        shown = opened.all("#grid label span:last-child")
        return [float(span.text.removesuffix(" dB")) for span in shown]

    def gain(image):
        scores = {
            choice: image["versions"][image["chosen"][choice]]["scores"][0]
            for choice in ("1 own", "1 webp", "1 thumbhash")
            if choice in image["chosen"]
        }
        return scores.pop("1 own") - max(scores.values())

    assert opened.names() == opened.given
    expected = [gain(image) for image in opened.data["images"]]
    assert gains() == pytest.approx(expected, abs=0.0051)
    opened.choose("order", "least")
    assert gains() == pytest.approx(sorted(expected), abs=0.0051)
    opened.choose("order", "most")
    assert gains() == pytest.approx(sorted(expected, reverse=True), abs=0.0051)
    assert opened.text("#name") == opened.names()[0]
    ordered = opened.names()
    opened.find("#grid input:checked").send_keys(Keys.ARROW_RIGHT)
    assert opened.text("#name") == ordered[1]
    opened.find("#previous").click()
    opened.find("#previous").click()
    assert opened.text("#name") == ordered[-1]
    opened.choose("order", "given")
    assert opened.names() == opened.given


@pytest.mark.browser
def test_names_are_text_and_nothing_is_asked_of_others(opened, measured):
    opened.show(WICKED)
    assert opened.text("#name").endswith(WICKED)
    log = opened.browser.get_log("performance")
    messages = [json.loads(line["message"])["message"] for line in log]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) > 5
    assert all(url.startswith(f"file://{measured}/") for url in asked)
    assert opened.browser.get_log("browser") == []


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
