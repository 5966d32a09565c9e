"""The page that encodes and decodes: its modules against the vectors and Python, and its use."""

import base64
import collections
import json
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, PHOTOS
from PIL import Image
from small_models import CONFIGS, write
from vectors import reference

import tokcodec
from tokcodec import Codec, TokenFile, checkpoint
from tokcodec.errors import CheckpointError, OutputError, TokenFileError
from tokcodec.web.site import INDEX, OFFLINE, worker_program, write_site

VECTORS = Path(__file__).parent / "vectors"
MODULES = Path(tokcodec.__file__).parent / "web"
SECONDS = 60  # that a page is waited for


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def serve():
    """Starts a server of a folder, and gives it and its address."""
    servers = []

    def serve(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server, f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


# What is written


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    assert write_site(folder) == folder / INDEX
    return folder


def test_the_page_holds_everything_and_its_policy_allows_nothing_else(site):
    assert {path.name for path in site.iterdir()} == {INDEX, OFFLINE}
    text = (site / INDEX).read_text()
    (model,) = re.findall(r'id="model" data-name="tokcodec">(.*?)</script>', text, re.DOTALL)
    assert base64.b64decode(model) == checkpoint.find("tokcodec").path.read_bytes()
    rest = text.replace(model, "")
    assert not re.search(r"://|\b(src|href)=|unsafe|\$\w", re.sub(r"//.*|\$\{\w+", "", rest))
    assert re.search(r"default-src 'none'; style-src 'sha256-.{44}'; script-src 'sha256-", rest)
    names = re.findall(r"^(?:const|let|class|(?:async )?function\*?) (\w+)", worker_program(), re.M)
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []


def test_a_folder_with_other_files_is_refused(run, tiny, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError):
        write_site(tmp_path, str(tiny))
    run("web", "-o", tmp_path, "--weights", tiny, status=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    run("web", "-o", tmp_path, "--weights", tiny, "-f")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", INDEX, OFFLINE}
    for folder in ("-", tmp_path / "mine.txt"):
        run("web", "-o", folder, "--weights", tiny, status=1)


def test_models_that_the_page_does_not_run_are_refused(tmp_path):
    with pytest.raises(CheckpointError):
        write_site(tmp_path / "site", str(GOLDEN / "latent.safetensors"))
    assert not (tmp_path / "site").exists()


# The modules


class Lab:
    """Runs programs in the browser that import the modules of the page."""

    def __init__(self, browser, serve, folder):
        self.browser, self.folder = browser, folder
        for module in MODULES.glob("*.js"):
            shutil.copy(module, folder)
        _, self.address = serve(folder)

    def run(self, program, *arguments):
        """The value of an async function of these arguments, as JSON."""
        self.browser.get(f"{self.address}/format.js")
        self.browser.set_script_timeout(SECONDS)
        whole = f"""
            const [given, done] = arguments;
            const load = async (name) => (await fetch("/" + name)).arrayBuffer();
            const bytesOf = (hex) =>
                Uint8Array.from(hex.match(/../g) ?? [], (digits) => parseInt(digits, 16));
            const hexOf = (bytes) =>
                Array.from(bytes, (byte) => (byte + 256).toString(16).slice(1)).join("");
            (async (...given) => {{ {program} }})(...given)
                .then((value) => done([value]), (error) => done(String(error.stack)));
        """
        result = self.browser.execute_async_script(whole, arguments)
        assert isinstance(result, list), result
        return result[0]


@pytest.fixture
def lab(browser, serve, tmp_path):
    return Lab(browser, serve, tmp_path)


READ = """
    const [vectors, tables] = given;
    const format = await import("/format.js");
    const { Prior } = await import("/prior.js");
    const arrays = { int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array };
    const prior = new Prior(Object.fromEntries(Object.entries(tables).map(([name, table]) => {
        const bytes = Uint8Array.from(atob(table.base64), (c) => c.charCodeAt(0));
        return [name, new arrays[table.type](bytes.buffer)];
    })));
    const { readTokens } = await import("/tokens.js");
    function read(bytes) {
        const { payload, ...file } = format.parse(bytes);
        return { ...file, tokens: [...readTokens({ ...file, payload }, prior)] };
    }
    function refused(bytes, how = read) {
        try {
            how(bytes);
            return false;
        } catch (error) {
            return error instanceof format.TokenFileError && error.message;
        }
    }
"""


@pytest.mark.browser
def test_vectors(lab):
    vectors, tables = (
        json.loads((VECTORS / name).read_text()) for name in ("token_files.json", "prior.json")
    )
    program = """
        const files = vectors.files.map(({ file }) => {
            const bytes = bytesOf(file);
            const again = hexOf(format.serialize(format.parse(bytes)));
            return { ...read(bytes), again, text: format.toText(bytes) };
        });
        const refusals = Object.values(vectors.refused).map((file) => refused(bytesOf(file)));
        for (const packet of Object.values(vectors.refused_packets)) {
            refusals.push(refused(bytesOf(packet)));
        }
        let accepted = 0;
        for (const { file } of vectors.files) {
            for (let place = 0; place < file.length / 2; place++) {
                const bytes = bytesOf(file);
                for (let change = 1; change < 256; change += place < 40 ? 1 : 60) {
                    bytes[place] = (bytesOf(file)[place] + change) % 256;
                    accepted += !refused(bytes, format.parse);
                }
                accepted += !refused(bytesOf(file).subarray(0, place), format.parse);
            }
        }
        return { files, refusals, accepted };
    """
    found = lab.run(READ + program, vectors, tables)
    for vector, file in zip(vectors["files"], found["files"], strict=True):
        data = vector["file"]
        expected = {
            re.sub(r"_(.)", lambda match: match[1].upper(), name): value
            for name, value in vector.items()
            if name != "file"
        }
        text = TokenFile.from_bytes(bytes.fromhex(data)).to_text()
        assert file == {**expected, "again": data, "text": text}
    assert all(isinstance(message, str) for message in found["refusals"])
    assert found["accepted"] == 0


def garbled(message, rng):
    """A message as it arrives: wrapped, quoted, cut, in other letters, among words and others."""
    for _ in range(rng.integers(0, 4)):
        place = int(rng.integers(0, len(message) + 1))
        change = rng.choice(["\n> ", " ", '"', "\u201d", "=", "--", "tok:", "A", "", "\u212a"])
        message = message[:place] + str(change) + message[place + int(rng.integers(0, 2)) :]
    if rng.random() < 0.3:
        message = message.replace("-", "+").replace("_", "/")
    if rng.random() < 0.3:
        message = message.replace("tok:", "ToK: ")
    around = ["", " ", "_", '"', "**", "-- ", "see tok: that", "token", "\u00ab", "more words"]
    return f"{rng.choice(around)}{message}{rng.choice(around)}"


@pytest.mark.browser
def test_messages_are_found_as_by_python(lab):
    rng = np.random.default_rng(0)
    vectors = json.loads((VECTORS / "token_files.json").read_text())
    files = [vector["file"] for vector in vectors["files"]]
    files += [packet for vector in vectors["packets"] for packet in vector["packets"]]
    messages = [TokenFile.from_bytes(bytes.fromhex(file)).to_text() for file in files]
    texts = [garbled(str(rng.choice(messages)), rng) for _ in range(300)]
    texts += [" and ".join(texts[n : n + 3]) for n in range(50)]
    texts += ["", "tok:", "tok:t", "tok: none", "tok:t" + " a" * 20_000]

    def facts(file):
        if isinstance(file, TokenFileError):
            return None
        if not file.packets:
            return file.to_bytes().hex()
        payloads = [[number, payload.hex()] for number, payload in file.packets.payloads]
        return [file.packets.count, file.packets.image, payloads]

    def found(text):
        try:
            return [facts(file) for file in TokenFile.find(text.encode())]
        except TokenFileError:
            return []

    program = """
        const { filesIn, serialize, TokenFileError } = await import("/format.js");
        const { join } = await import("/packets.js");
        const facts = (file) => {
            if (file instanceof TokenFileError) return null;
            if (!file.packets) return hexOf(serialize(file));
            const { count, image, payloads } = file.packets;
            return [count, image, [...payloads].sort(([a], [b]) => a - b)
                .map(([number, payload]) => [number, hexOf(payload)])];
        };
        return given[0].map((text) => join(filesIn(new TextEncoder().encode(text))).map(facts));
    """
    expected = [found(text) for text in texts]
    assert sum(any(results) for results in expected) > 100
    assert any(len(results) < 3 for results in expected[300:350])
    assert lab.run(program, texts) == expected


@pytest.mark.browser
def test_packets(lab):
    vectors, tables = (
        json.loads((VECTORS / name).read_text()) for name in ("token_files.json", "prior.json")
    )
    program = """
        const { join } = await import("/packets.js");
        const parse = (hex) => format.parse(bytesOf(hex));
        const tokensOf = (packets) => {
            const files = join(packets.map(parse));
            return files.map((file) => [...readTokens(file, prior)]);
        };
        let accepted = 0;
        const results = vectors.packets.map(({ packets }) => {
            for (const packet of packets) {
                for (let place = 0; place < packet.length / 2; place++) {
                    const bytes = bytesOf(packet);
                    bytes[place] ^= 1 << (place % 8);
                    accepted += !refused(bytes, format.parse);
                    accepted += !refused(bytesOf(packet).subarray(0, place), format.parse);
                }
            }
            const without = packets.map((_, lost) => packets.toSpliced(lost, 1).reverse());
            return {
                all: tokensOf(packets),
                restored: without.flatMap(tokensOf),
                alone: packets.slice(0, -1).flatMap((packet) => tokensOf([packet])),
            };
        });
        const mixed = tokensOf(vectors.packets.flatMap(({ packets }) => packets));
        return { accepted, results, mixed };
    """
    found = lab.run(READ + program, vectors, tables)
    assert found["accepted"] == 0
    images = [vector["image"]["tokens"] for vector in vectors["packets"]]
    assert found["mixed"] == images
    for vector, result in zip(vectors["packets"], found["results"], strict=True):
        tokens, count = vector["image"]["tokens"], len(vector["packets"]) - 1
        assert result["all"] == [tokens]
        assert result["restored"] == [tokens] * (count + 1)
        for number, alone in enumerate(result["alone"]):
            rows, columns = vector["image"]["rows"], vector["image"]["columns"]
            there = np.array(reference.packet_numbers(rows, columns, count)) == number
            assert alone == np.where(there, tokens, -1).tolist()


CODEC = """
    const { Codec } = await import("/codec.js");
    const { filesIn, serialize } = await import("/format.js");
    const { join } = await import("/packets.js");
    const codec = new Codec(await load("model.safetensors"), "model");
    async function read(name) {
        const bitmap = await createImageBitmap(new Blob([await load(name)]));
        const { width, height } = bitmap;
        const context = new OffscreenCanvas(width, height).getContext("2d");
        context.drawImage(bitmap, 0, 0);
        const original = { width, height };
        return { ...original, original, data: context.getImageData(0, 0, width, height).data };
    }
    function shown({ data, width, height }) {
        let text = "";
        for (const byte of data) text += String.fromCharCode(byte);
        return { size: [width, height], data: btoa(text) };
    }
"""


def pixels(shown):
    width, height = shown["size"]
    data = np.frombuffer(base64.b64decode(shown["data"]), np.uint8).reshape(height, width, 4)
    assert (data[..., 3] == 255).all()
    return data[..., :3].astype(int)


@pytest.mark.browser
@pytest.mark.parametrize("name", CONFIGS)
def test_every_option_of_a_model(lab, name):
    codec = Codec.load(write(lab.folder / "model.safetensors", CONFIGS[name]), runtime="numpy")
    Image.open(PHOTOS[1]).convert("RGB").resize((120, 90)).save(lab.folder / "image.png")
    program = """
        const image = await read("image.png");
        const results = [];
        for (const limit of [1, 12, 50, 70]) {
            const file = await codec.encode(image, limit);
            results.push({ file: hexOf(serialize(file)), ...shown(await codec.decode(file)) });
        }
        return results;
    """
    for limit, result in zip([1, 12, 50, 70], lab.run(CODEC + program), strict=True):
        file = codec.compress(lab.folder / "image.png", fit="aspect", tokens=limit)
        assert result["file"] == file.to_bytes().hex()
        assert np.abs(pixels(result) - np.asarray(codec.decompress(file))).max() <= 1


@pytest.fixture(scope="module")
def codec():
    return Codec.load(device="cpu", runtime="numpy")


@pytest.mark.browser
def test_the_bundled_model(lab, codec):
    shutil.copy(codec.header.path, lab.folder / "model.safetensors")
    image = Image.open(PHOTOS[1]).convert("RGB")
    files = [codec.compress(image, tokens=count) for count in (1, 100)]
    files += [codec.compress(image.rotate(90, expand=True), packed=True)]
    small = image.crop((0, 0, 201, 130))
    files += [codec.compress(small, fit=fit) for fit in ("stretch", "crop", "pad", "native")]
    files.append(codec.compress(small.resize((3000, 1001)), tokens=30))
    sent = codec.compress(image, packets=3, tokens=70)
    some = TokenFile.join(sent.parts()[:2])
    files += [sent, *some, *sent.parts()]
    program = """
        const results = [];
        for (const text of given[0]) {
            const [file] = join(filesIn(new TextEncoder().encode(text)));
            results.push(shown(await codec.decode(file)));
        }
        return results;
    """
    results = lab.run(CODEC + program, [file.to_text() for file in files])
    for file, result in zip(files, results, strict=True):
        decoded = np.asarray(codec.decompress(file)).astype(int)
        assert np.abs(pixels(result) - decoded).max() <= 1


@pytest.mark.browser
def test_a_file_within_a_limit_is_that_of_python(lab, codec):
    shutil.copy(codec.header.path, lab.folder / "model.safetensors")
    limits = ((60, "bytes"), (120, "characters"))
    cases = [(photo.name, *limit) for photo, limit in zip(PHOTOS, limits, strict=False)]
    for photo in PHOTOS:
        shutil.copy(photo, lab.folder)
    program = """
        const results = [];
        for (const [name, limit, unit] of given[0]) {
            const file = await codec.encodeWithin(await read(name), limit, unit);
            results.push(hexOf(serialize(file)));
        }
        try {
            await codec.encodeWithin(await read(given[0][0][0]), 10, "bytes");
        } catch (error) {
            return [...results, error.message];
        }
    """
    *results, error = lab.run(CODEC + program, cases)
    assert "smallest file" in error
    for (name, limit, unit), result in zip(cases, results, strict=True):
        expected = codec.compress(lab.folder / name, max_bytes=limit, text=unit == "characters")
        assert result == expected.to_bytes().hex()


# The page


class Page:
    """The page in the browser."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.set_window_size(1100, 900)
        browser.get_log("browser")
        browser.get(address)
        self.wait()

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def wait(self, condition=lambda: True):
        """Waits until the page is not busy and a condition is true."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.browser, SECONDS, 0.05).until(
            lambda _: not self.find("#progress").is_displayed() and condition()
        )

    def paste(self, text, count):
        """Pastes a text, and gives what is shown: so many images, or texts of errors."""
        self.browser.execute_script(
            "images.replaceChildren(); message.value = arguments[0];"
            "message.dispatchEvent(new Event('input'))",
            text,
        )
        return self.shown(count)

    def open(self, paths, count):
        """Opens files; as ``paste``."""
        self.browser.execute_script("images.replaceChildren(); file.value = ''")
        self.find("#file").send_keys("\n".join(map(str, paths)))
        return self.shown(count)

    def shown(self, count):
        self.wait(lambda: len(self.all("#images > *")) == count)
        return self.browser.execute_script(
            """
            return [...images.children].map((part) => {
                const canvas = part.querySelector("canvas");
                if (!canvas) return part.textContent;
                const { width, height } = canvas;
                const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
                let text = "";
                for (const byte of data) text += String.fromCharCode(byte);
                return { size: [width, height], data: btoa(text) };
            });
            """
        )

    def encode(self, path, limit, unit="bytes"):
        """Chooses an image and a limit, and gives the message."""
        field = self.find("#limit")
        field.clear()
        field.send_keys(str(limit))
        self.find(f"#unit option[value={unit}]").click()
        self.find("#choose").send_keys(str(path))
        self.wait(lambda: self.find("#result").is_displayed())
        return self.find("#text").get_attribute("value")


@pytest.mark.browser
def test_messages_and_files_are_shown_from_the_disk(browser, site, codec, tiny, tmp_path):
    page = Page(browser, f"file://{site}/{INDEX}")
    files = [codec.compress(photo, tokens=40) for photo in PHOTOS[:2]]
    other = Codec.load(str(tiny), "cpu", runtime="numpy").compress(PHOTOS[0])
    tiled = codec.compress(PHOTOS[0], fit="tile")
    one, two = (file.to_text() for file in files)
    text = f"Look: \u201c{one[:30]}\n> {one[30:]}\u201d, {two[:-3]} {other.to_text()}\n({two})"
    first, cut, unknown, last = page.paste(text, 4)
    for file, result in zip(files, (first, last), strict=True):
        assert np.abs(pixels(result) - np.asarray(codec.decompress(file))).max() <= 1
    assert "2 of 4" in cut
    assert other.model_id.hex() in unknown
    assert codec.header.model_id[:4] in unknown
    for refused in ("no message", tiled.to_text()):
        assert isinstance(page.paste(refused, 1)[0], str)

    files[0].save(tmp_path / "a.tok")
    files[0].save(tmp_path / "a.txt", text=True)
    (tmp_path / "bad.tok").write_bytes(files[0].to_bytes()[:-1])
    assert page.open([tmp_path / "a.tok"], 1) == page.open([tmp_path / "a.txt"], 1) == [first]
    assert isinstance(page.open([tmp_path / "bad.tok"], 1)[0], str)

    packets = codec.compress(PHOTOS[1], tokens=40, packets=3).parts()
    names = [tmp_path / f"{number}.tok" for number in range(3)]
    for name, packet in zip(names, packets, strict=True):
        packet.save(name)
    assert page.open(names, 1) == [last]
    page.paste(f"{packets[2].to_text()} > {packets[0].to_text()}", 1)
    assert "packets 1, 3 of 3" in page.find("#images").text
    assert "tokens were lost" in page.find("#images").text
    assert browser.get_log("browser") == []


@pytest.mark.browser
def test_messages_of_the_page_are_decoded_by_python(browser, site, codec, tmp_path):
    page = Page(browser, f"file://{site}/{INDEX}")
    downloads = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    text = page.encode(PHOTOS[2], 150)
    assert text == codec.compress(PHOTOS[2], max_bytes=150).to_text()
    page.find("#download").click()
    target = tmp_path / "coffee.tok"
    page.wait(target.exists)
    file = TokenFile.load(target)
    assert file.to_text() == text
    assert file.file_bytes <= 150
    assert f"{file.num_tokens} tokens, {file.file_bytes} bytes" in page.find("#preview").text
    assert codec.decompress(file).size == Image.open(PHOTOS[2]).size
    page.find("#copy").click()
    page.wait(lambda: page.find("#copied").text)


@pytest.mark.browser
def test_a_new_limit_replaces_the_last_one(browser, site):
    page = Page(browser, f"file://{site}/{INDEX}")
    page.encode(PHOTOS[2], 50)
    change = "limit.value = arguments[0]; limit.dispatchEvent(new Event('change'))"
    for limit in (1000, 100, 200, 70):
        browser.execute_script(change, limit)
    page.wait(lambda: page.find("#result").is_displayed())
    message = page.find("#text").get_attribute("value")
    assert 50 < TokenFile.from_bytes(message.encode()).file_bytes <= 70


@pytest.mark.browser
def test_photos_are_upright_and_keep_their_size(browser, site, codec, tmp_path):
    page = Page(browser, f"file://{site}/{INDEX}")
    photo = Image.open(PHOTOS[0]).convert("RGB").resize((3000, 2000))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photo.save(tmp_path / "photo.jpg", exif=exif)
    file = TokenFile.from_bytes(page.encode(tmp_path / "photo.jpg", 100, "characters").encode())
    assert (file.width, file.height) == (2000, 3000)
    assert len(file.to_text()) <= 100
    decoded = codec.decompress(file, size=(200, 300))
    expected = photo.transpose(Image.Transpose.ROTATE_270).resize((200, 300))
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(expected)).mean() < 40
    (tmp_path / "bad.png").write_bytes(b"no image")
    page.find("#choose").send_keys(str(tmp_path / "bad.png"))
    page.wait(lambda: page.all("#preview .error"))
    assert not page.find("#result").is_displayed()


@pytest.mark.browser
def test_nothing_leaves_the_page_and_it_opens_without_its_server(browser, site, serve, codec):
    server, address = serve(site)
    browser.get_log("performance")
    page = Page(browser, address)
    browser.execute_async_script("navigator.serviceWorker.ready.then(arguments[0])")
    page.paste(codec.compress(PHOTOS[0], tokens=20).to_text(), 1)
    page.encode(PHOTOS[0], 60)
    log = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in log
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert {url.partition("?")[0] for url in asked if not url.startswith("blob:")} <= {
        f"{address}/",
        f"{address}/{OFFLINE}",
    }
    tried = """
        document.addEventListener("securitypolicyviolation", ({ blockedURI }) => done(blockedURI));
        const [url, done] = arguments;
        fetch(url);
    """
    assert browser.execute_async_script(tried, f"{address}/{INDEX}") == f"{address}/{INDEX}"
    server.shutdown()
    server.server_close()
    page = Page(browser, address)
    assert isinstance(page.paste(codec.compress(PHOTOS[0], tokens=20).to_text(), 1)[0], dict)


@pytest.mark.browser
def test_by_keyboard_on_a_phone_and_in_the_dark(browser, site, codec):
    from selenium.webdriver import ActionChains, Keys

    page = Page(browser, f"file://{site}/{INDEX}")
    size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.paste(f"{codec.compress(PHOTOS[1], tokens=20).to_text()} {'x' * 300}", 1)
    page.encode(PHOTOS[0], 50)
    width = "return [document.documentElement.scrollWidth, innerWidth]"
    assert browser.execute_script(width) == [360, 360]

    page.find("#message").click()
    reached = []
    for _ in range(20):
        focused = browser.switch_to.active_element
        if focused.tag_name == "body":
            break
        reached.append(focused.get_attribute("id") or focused.text)
        assert focused.accessible_name
        assert "none" not in focused.value_of_css_property("outline-style")
        ActionChains(browser).send_keys(Keys.TAB).perform()
    assert reached[:8] == [
        "message", "file", "Save as PNG", "choose", "camera", "limit", "unit", "text",
    ]  # fmt: skip
    assert reached[8:10] == ["copy", "download"]
    for canvas in page.all("canvas"):
        assert canvas.aria_role in ("img", "image")
        assert canvas.accessible_name

    def brightness():
        colour = page.find("body").value_of_css_property("background-color")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    light = brightness()
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert brightness() < 200 < 600 < light
