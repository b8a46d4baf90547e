"""`passl-train` with something going wrong on one rank; for tests.

    python -m tests.engine.faulty_train FAULT RANK STEP <arguments of passl-train>

nan: the loss of that rank becomes NaN at that step. full_disk: from that step on the rank's files end at 32 kB.
slow: that step takes four seconds longer on that rank.
"""
import resource
import sys
import time

from passl import distributed
from passl.cli.train import main


def break_steps(fault: str, step: int) -> None:
    from passl.engine.trainer import Trainer

    original = Trainer._train_step

    def train_step(trainer, batches, interrupt):
        if trainer.step != step:
            return original(trainer, batches, interrupt)
        if fault == "slow":
            time.sleep(4)
            return original(trainer, batches, interrupt)
        if fault == "full_disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (32768, 32768))
            return original(trainer, batches, interrupt)
        training_step = trainer.method.training_step
        trainer.method.training_step = lambda *batch: (training_step(*batch)[0] * float("nan"), {})
        return original(trainer, batches, interrupt)

    Trainer._train_step = train_step


if __name__ == "__main__":
    fault, rank, step, *arguments = sys.argv[1:]
    if distributed.rank() == int(rank):
        break_steps(fault, int(step))
    sys.exit(main(arguments))
