"""100,000 images through ``encode`` and ``tokenize``, and a list of a million names planned:
python tests/benchmarks/many.py [IMAGES [NAMES]]

Every tenth of a run it prints the time of an image, the memory that the process has and the files
that it holds open: all should stay as they are. The images are one small JPEG under many names,
the weights the tiny ones of the tests.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

TESTS = Path(__file__).parents[1]
TINY = str(TESTS / "golden" / "patch.safetensors")


def show(done: int, since: float, images: int) -> None:
    status = Path("/proc/self/status").read_text().split()
    held = int(status[status.index("VmRSS:") + 1]) // 1024
    files = len(list(Path("/proc/self/fd").iterdir()))
    taken = 1e3 * (time.perf_counter() - since) / images
    print(f"{done:>9,}  {taken:5.2f} ms an image  {held:>4} MiB  {files:>3} files", flush=True)


def watch(count: int, done: list[int]) -> None:
    """Prints whenever another tenth of all images is done."""
    step, shown, since = count // 10, 0, time.perf_counter()
    while shown < count:
        time.sleep(0.05)
        if done[0] >= shown + step:
            show(done[0], since, done[0] - shown)
            shown, since = shown + step, time.perf_counter()


def run(command: str, count: int, source: str, output: str) -> None:
    from tokcodec import codec
    from tokcodec.cli import main

    done = [0]
    stream = codec.Codec.encode_stream

    def counted(*arguments: object, **others: object) -> object:
        for item in stream(*arguments, **others):  # type: ignore[arg-type]
            done[0] += 1
            yield item

    codec.Codec.encode_stream = counted  # type: ignore[assignment]
    threading.Thread(target=watch, args=(count, done), daemon=True).start()
    sys.argv = ["tokcodec", command, source, "-o", output, "--weights", TINY]
    main()


def plan(count: int, listed: str, output: str) -> None:
    from tokcodec.tokenize.plan import make_plan

    show(0, time.perf_counter(), 1)
    begun = time.perf_counter()
    names = Path(listed).read_text().splitlines()
    made = make_plan([], listed=names, without=[Path(output)])
    show(sum(len(shard.batch) for shard in made.shards), begun, count)  # type: ignore[arg-type]


def main() -> None:
    if len(sys.argv) == 5:
        command, count, source, output = sys.argv[1:]
        (plan if command == "plan" else lambda *rest: run(command, *rest))(
            int(count), source, output
        )
        return
    count, names = (int(n) for n in (*sys.argv[1:], "100000", "1000000")[:2])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        Image.open(TESTS / "data" / "coffee.jpg").resize((64, 48)).save(folder / "0.jpg")
        for number in range(count):
            source = folder / "in" / f"{number // 1000}"
            source.mkdir(parents=True, exist_ok=True)
            if number % 10_000 == 0:  # of a file, as no more names are allowed everywhere
                (folder / "one.jpg").unlink(missing_ok=True)
                Image.open(folder / "0.jpg").save(folder / "one.jpg")
            os.link(folder / "one.jpg", source / f"{number}.jpg")
        (folder / "list").write_text("\n".join(f"{folder}/0.jpg#{n}" for n in range(names)))
        for command, many, source in (
            ("encode", count, "in"),
            ("tokenize", count, "in"),
            ("plan", names, "list"),
        ):
            print(f"{command}: {many:,}", flush=True)
            program = [sys.executable, __file__, command, str(many)]
            program += [str(folder / source), str(folder / f"out-{command}")]
            subprocess.run(program, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
