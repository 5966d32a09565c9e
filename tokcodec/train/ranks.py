"""The processes of one training, a device each, as ``torchrun`` starts them."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

_PATIENCE = timedelta(hours=12)  # that the others have while the first reads all images


@contextlib.contextmanager
def process_group(device: str) -> Iterator[str]:
    """With the other processes, where there are any; gives the device that is this one's own."""
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0; the first reads images, reports and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Until all have come here."""
    if dist.is_initialized():
        dist.barrier()


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """The others wait until the first has done what is inside."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Makes tensors those of the first process, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def sum_(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def mean_gradients(module: nn.Module) -> None:
    """Makes every gradient the mean over all processes."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    together = sum_(torch.cat([gradient.flatten() for gradient in gradients])) / count()
    for gradient, part in zip(
        gradients, torch.split(together, [g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(part.view_as(gradient))
