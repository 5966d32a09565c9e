"""The processes of one training, one for each device, as ``torchrun`` starts them."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

_TIMEOUT = timedelta(hours=12)  # the other processes wait until the first has read all images


@contextlib.contextmanager
def process_group(device: str) -> Iterator[str]:
    """Joins the other processes, if there are any; yields the device of this one."""
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def count() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; the first one reads images, reports and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(total: int) -> slice:
    """The part of ``total`` items of this process; the parts differ by one item at most."""
    return slice(total * rank() // count(), total * (rank() + 1) // count())


def wait() -> None:
    """Waits for all processes."""
    if dist.is_initialized():
        dist.barrier()


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """The other processes run the block after the first one."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Copies the tensors of the first process to all processes, in place."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def sum_(tensor: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def mean_gradients(module: nn.Module) -> None:
    """Averages every gradient over all processes."""
    if count() > 1:
        for parameter in module.parameters():
            if parameter.grad is not None:
                sum_(parameter.grad).div_(count())
