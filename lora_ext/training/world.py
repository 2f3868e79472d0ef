"""Several processes that train one adapter: who does what, and how they agree before every step.

Each of them draws the chance of the whole batch, computes its share of the samples and adds its gradients to those of
the others, so that every one makes the same step: the one a single process would make with the whole batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import Tensor, nn

from lora_ext.errors import BadInput, Problem
from lora_ext.training.events import Abort, Event, Stop

GO, STOP, ABORT, FAILED = range(4)
"""What a process says at an agreement; the highest of all counts."""

PATIENCE = timedelta(hours=2)  # a process may wait for another's preview, or for its slower disk
PIECE = 1 << 22  # numbers sent at once; larger pieces gain nothing and need as much memory again


class Elsewhere(Exception):
    """Another process of the run failed or is gone; that one says why."""


@dataclass(frozen=True)
class World:
    """The processes of a run; this one is number `rank` of `size`, number `local` on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0
    _word: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64), repr=False, compare=False)
    """What goes around at an agreement; always the same tensor. One that only gloo's thread still held would be freed
    by that thread, which needs Python's lock for it, while `destroy_process_group` holds the lock and waits for the
    thread: torch 2.1 then never ends."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, shows and speaks."""
        return self.rank == 0

    def share(self, samples: int) -> range:
        """Which of a batch's samples are this process's; may be none of a short batch."""
        return range(samples * self.rank // self.size, samples * (self.rank + 1) // self.size)

    def agree(self, said: int = GO) -> None:
        """Wait for all and hear what was said: raises `Stop`, `Abort` or `Elsewhere` in every process alike."""
        if self.size == 1:
            return
        self._word.fill_(said)
        with _one_may_be_gone():
            torch.distributed.all_reduce(self._word, torch.distributed.ReduceOp.MAX)
        heard = self._word.item()
        if heard >= FAILED:
            raise Elsewhere("another process of this run failed")
        if heard == ABORT:
            raise Abort
        if heard == STOP:
            raise Stop

    def fail(self) -> None:
        """Say at the next agreement that this process failed; the others end there."""
        with contextlib.suppress(Elsewhere, Stop, Abort):
            self.agree(FAILED)

    def add_up(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Add every process's gradients into each one's own; gives the sum of `loss` (a scalar).

        Parameters that learn but had no sample here count as 0; those that had none anywhere (their layer rests) stay
        without a gradient, and so are left out of the step as in a single process. Call it after an agreement only.
        """
        if self.size == 1:
            return loss
        learning = self._used_anywhere([p for p in parameters if p.requires_grad])
        for parameter in learning:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        total = loss.detach().clone()
        with _one_may_be_gone():
            for part in _pieces([p.grad for p in learning if p.grad is not None]):
                joined = torch.cat([gradient.reshape(-1) for gradient in part])
                torch.distributed.all_reduce(joined)
                for gradient, summed in zip(part, torch.split(joined, [g.numel() for g in part]), strict=True):
                    gradient.copy_(summed.view_as(gradient))
            torch.distributed.all_reduce(total)
        return total

    def _used_anywhere(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Those that have a gradient in any of the processes."""
        used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        with _one_may_be_gone():
            torch.distributed.all_reduce(used, torch.distributed.ReduceOp.MAX)
        return [p for p, is_used in zip(parameters, used.tolist(), strict=True) if is_used]

    def alike(self, parameters: Iterable[Tensor]) -> None:
        """Give every process the first one's numbers, bit for bit."""
        if self.size > 1:
            with _one_may_be_gone(), torch.no_grad():
                for parameter in parameters:
                    torch.distributed.broadcast(parameter.detach(), 0)

    @contextlib.contextmanager
    def in_turns(self, wanted: bool) -> Iterator[None]:
        """Inside, the first process is done before the others begin, so that they find what it wrote."""
        if wanted and not self.leads:
            self.agree()
        yield
        if wanted and self.leads:
            self.agree()

    def problems(self, samples: Collection[int]) -> Iterator[Problem]:
        """What is wrong with so many processes for buckets of so many `samples`."""
        most = max(samples, default=0)
        if self.size > most:
            what = f"{self.size} processes share each batch, but no bucket has so many pictures"
            fix = "Start fewer processes, or give more pictures or repeats."
            yield Problem("images", what, f"at least {self.size}", str(most), fix)


ALONE = World()


@contextlib.contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[World]:
    """The world that `torchrun` or `accelerate launch` tell of by RANK and WORLD_SIZE; without them this process alone.

    Inside, tensors on "cuda" are on the card of this process. Raises `BadInput` (field "processes") for numbers that
    make no sense or where this torch cannot do it. Whatever ends the block early ends it in all processes.
    """
    size = _number(environment, "WORLD_SIZE", 1)
    if size <= 1:
        yield ALONE
        return
    rank = _number(environment, "RANK", None)
    world = World(rank, size, _number(environment, "LOCAL_RANK", rank))
    if not 0 <= rank < size:
        raise BadInput(Problem("processes", "RANK is not below WORLD_SIZE", f"0 to {size - 1}", str(rank)))
    if not torch.distributed.is_available():
        raise BadInput(Problem("processes", "this build of torch cannot join several processes", "1", str(size)))
    with _connected(world):
        try:
            yield world
        except (Elsewhere, KeyboardInterrupt):  # a second Ctrl-C does not wait for anybody
            raise
        except BaseException:
            world.fail()
            raise


@contextlib.contextmanager
def _connected(world: World) -> Iterator[None]:
    """Talk to the others: gradients on cards by NCCL, all else by gloo."""
    backend = "gloo"
    if torch.cuda.is_available():
        if world.local >= torch.cuda.device_count():
            got = f"{torch.cuda.device_count()} for process {world.local}"
            raise BadInput(Problem("processes", "there are more processes than cards", "a card for each", got))
        torch.cuda.set_device(world.local)
        backend = "cpu:gloo,cuda:nccl" if torch.distributed.is_nccl_available() else "gloo"
    try:
        torch.distributed.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as e:
        why = " ".join(str(e).split())
        raise BadInput(Problem("processes", "the processes of the run did not find each other", got=why)) from e
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # the others may be gone
            torch.distributed.destroy_process_group()


def together(run: Generator[Event, None, None], world: World) -> Generator[Event, None, None]:
    """The run, whose end (good or bad) all processes reach before any of them goes on.

    Raises `Elsewhere` where another one failed after this one's last step.
    """
    yield from run
    world.agree()


@contextlib.contextmanager
def _one_may_be_gone() -> Iterator[None]:
    """A process that was killed shows as a broken connection."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as e:
        raise Elsewhere("another process of this run is gone") from e


def _pieces(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients in their order, so many together that a message is worth its trouble."""
    part: list[Tensor] = []
    for gradient in gradients:
        if part and sum(g.numel() for g in part) + gradient.numel() > PIECE:
            yield part
            part = []
        part.append(gradient)
    if part:
        yield part


def _number(environment: Mapping[str, str], name: str, default: int | None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.strip().isdigit():
        raise BadInput(Problem("processes", f"the environment's {name} cannot be read", "a whole number", repr(text)))
    return int(text)
