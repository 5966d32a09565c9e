"""What Winograd's convolution gains on whole decodes: python tests/benchmarks/winograd.py

LlamaGen VQ-16's decoder, random weights, 256x256 pixels, one thread, with and without in turns.
Processor time, so that other programs on the machine matter little.
"""

import time

import torch
from published import VQ16

from tokcodec.model.convolutional import Convolution
from tokcodec.model.tokenizer import Tokenizer

TURNS = 4


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Tokenizer(VQ16).eval().requires_grad_(False)
    for buffer in model.buffers():  # the codebook: equal rows are decoded once
        buffer.normal_()
    own = [m for m in model.decoder.modules() if isinstance(m, Convolution) and not m.exact]
    for batch in (1, 4):
        tokens = torch.randint(16384, (batch, 16, 16))
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(TURNS):
            for exact in (False, True):
                for layer in own:
                    layer.exact = exact
                begun = time.process_time()
                with torch.inference_mode():
                    model.decode(tokens)
                seconds[exact].append(time.process_time() - begun)
        winograd, direct = min(seconds[False]), min(seconds[True])
        print(
            f"batch {batch}: {winograd:.2f} s with, {direct:.2f} s without: "
            f"{direct / winograd:.2f} times as fast",
            flush=True,
        )


if __name__ == "__main__":
    main()
