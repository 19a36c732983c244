"""Devices that end together: where the process of one has gone, no other waits for it."""

import os
import sys
from contextlib import suppress
from datetime import timedelta
from threading import Event, Thread
from time import sleep
from typing import cast

import torch
import torch.distributed as dist
from lightning import Callback, Trainer

from app.devices import lost_device
from app.module import TitansModule

GRACE = 3  # seconds in which a process that is ending, too, says why
DONE, LEAVING = 0, 1  # words: the work is done; an error or a signal ends the process
FOR_EVER = timedelta(days=365)


class EndTogether(Callback):
    """End this process once that of another device has gone, whatever it waits for then.

    NCCL tells nobody, and a host that waits for its GPU would do so for half an hour. Threads therefore wait, over the
    CPUs, for a word from each other device, which comes when it ends; once it has gone, their connection breaks. The
    first device that is left says so.
    """

    def __init__(self) -> None:
        self.others: list[int] = []
        self.threads: list[Thread] = []

    def setup(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        self.rank = trainer.global_rank
        self.others = [rank for rank in range(trainer.world_size) if rank != self.rank]
        if not self.others:
            return
        # Over the devices: one that has ended while it read its data breaks this, and not what waits for ever.
        trainer.strategy.barrier("EndTogether.setup")
        self.leaving = Event()
        # Of which every process here is a member, so that it is no number.
        self.words = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=FOR_EVER))
        self.threads = [Thread(target=self._await, args=(trainer, rank), daemon=True) for rank in self.others]
        for thread in self.threads:
            thread.start()

    def teardown(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        if not self.others:
            return
        for rank in self.others:
            dist.send(torch.tensor([DONE]), rank, group=self.words)
        for thread in self.threads:
            thread.join()
        self.threads = []

    def on_exception(self, trainer: Trainer, module: TitansModule, exception: BaseException) -> None:
        if lost_device(exception):
            # A thread ends this process: Lightning's own way out waits for the GPU.
            sleep(2 * GRACE)
        elif self.threads:
            self.leaving.set()
            # Kept, as nobody waits until they have come: the other process may hang.
            self.said = []
            for rank in self.others:
                with suppress(RuntimeError):  # that process has gone
                    self.said.append(dist.isend(torch.tensor([LEAVING]), rank, group=self.words))
            # Others that are ending too answer at once. A thread whose connection broke while Python ends would abort
            # this process, and its exit code be lost.
            for thread in self.threads:
                thread.join(1)

    def _await(self, trainer: Trainer, rank: int) -> None:
        """Take the word of a device and, once it has gone without one that all is done, end this process."""
        word = torch.tensor([LEAVING])
        with suppress(RuntimeError):  # it has gone
            dist.recv(word, rank, group=self.words)
            if word.item() == DONE or self.leaving.wait(GRACE):
                return
            # It is still ending, with the exit code that it has: this comes to nothing before it has gone.
            dist.recv(word, rank, group=self.words)
        if self.leaving.wait(GRACE):
            return
        try:
            if self.rank == (1 if rank == 0 else 0):
                print("\nerror: another process of this run has ended; its output says why", file=sys.stderr)
            for logger in trainer.loggers:
                logger.finalize("failed")
        finally:
            os._exit(1)
