"""What is left of an image when packets are lost: python tests/benchmarks/packets.py [PHOTO...]

Four packets of at most 230 bytes are sent in four ways. For each share of packets that is lost, it
prints the mean PSNR of what is decoded, over all photos and all sets of packets that may arrive,
and how often nothing does. Without arguments the photos are those in tests/data.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tokcodec import Codec, TokenFile
from tokcodec.evaluate.metrics import psnr

SENT, BYTES = 4, 230
LOST = (0, 0.05, 0.1, 0.2, 0.3, 0.5)
# The packets that an image is split into, whether parity is one more, and how often all are sent.
WAYS = {
    "4 packets": (4, False, 1),
    "3 packets and parity": (3, True, 1),
    "2 packets, sent twice": (2, False, 2),
    "1 packet, sent four times": (1, False, 4),
}


def measure(codec, photo, count, parity, times):
    """The PSNR by the set of messages that arrive, empty ones left out."""
    file = codec.compress(photo, packets=count, packet_bytes=BYTES, parity=parity)
    messages = [part.to_text() for part in file.parts()] * times
    known = {}
    for size in range(1, SENT + 1):
        for there in itertools.combinations(range(SENT), size):
            text = "\n".join(sorted({messages[number] for number in there}))
            if text not in known:
                received = TokenFile.from_bytes(text.encode())
                tokens = received.tokens_with(None, incomplete=True)
                shown = (tokens >= 0).any()  # not if parity alone came
                decoded = codec.decompress(received) if shown else None
                known[text] = psnr(np.asarray(photo), np.asarray(decoded)) if decoded else None
            yield there, known[text]


def main():
    names = sys.argv[1:] or sorted(map(str, Path("tests/data").glob("*.png")))
    photos = [Image.open(name).convert("RGB") for name in names]
    codec = Codec.load(runtime="numpy")
    print(f"{len(photos)} photos, {SENT} packets of {BYTES} bytes; mean PSNR, dB (nothing arrives)")
    print("lost".ljust(28), *(f"{lost:>14.0%}" for lost in LOST))
    for name, way in WAYS.items():
        results = [list(measure(codec, photo, *way)) for photo in photos]
        shown = []
        for lost in LOST:
            total = weight = 0.0
            for found in results:
                for there, value in found:
                    if value is not None:
                        share = (1 - lost) ** len(there) * lost ** (SENT - len(there))
                        total, weight = total + share * value, weight + share
            nothing = 1 - weight / len(photos)
            shown.append(f"{total / weight:.2f} ({nothing:.1%})")
        print(name.ljust(28), *(text.rjust(14) for text in shown))


if __name__ == "__main__":
    main()
