"""Devices that end together: where the process of one has gone, no other waits for it."""

import os
import sys
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
FOR_EVER = timedelta(days=365)


class EndTogether(Callback):
    """End this process once that of another device has gone, whatever it waits for then.

    NCCL tells nobody, and a host that waits for its GPU would do so for half an hour. Threads therefore wait, over the
    CPUs, for a word from each other device, which comes when its work is done; if it has gone, their connection breaks.
    The first device that is left says so.
    """

    def __init__(self) -> None:
        self.others: list[int] = []

    def setup(self, trainer: Trainer, module: TitansModule, stage: str) -> None:
        self.rank = trainer.global_rank
        self.others = [rank for rank in range(trainer.world_size) if rank != self.rank]
        if not self.others:
            return
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
            dist.send(torch.zeros(1), rank, group=self.words)
        for thread in self.threads:
            thread.join()

    def on_exception(self, trainer: Trainer, module: TitansModule, exception: BaseException) -> None:
        if lost_device(exception):
            # A thread ends this process: Lightning's own way out waits for the GPU.
            sleep(2 * GRACE)
        elif self.others:
            self.leaving.set()

    def _await(self, trainer: Trainer, rank: int) -> None:
        """Take the word of a device or, if it has gone, end this process."""
        try:
            dist.recv(torch.zeros(1), rank, group=self.words)
            return
        except RuntimeError:
            if self.leaving.wait(GRACE):
                return
        try:
            if self.rank == (1 if rank == 0 else 0):
                print("\nerror: another process of this run has ended; its output says why", file=sys.stderr)
            for logger in trainer.loggers:
                logger.finalize("failed")
        finally:
            os._exit(1)
