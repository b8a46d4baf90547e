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
    from passl.engine.step import Stepper

    original = Stepper.__call__

    def make_step(stepper, batches, number, *place):
        if number == step and fault == "slow":
            time.sleep(4)
        elif number == step and fault == "full_disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (32768, 32768))
        elif number == step:
            training_step = stepper.method.training_step
            stepper.method.training_step = lambda *batch: (training_step(*batch)[0] * float("nan"), {})
        return original(stepper, batches, number, *place)

    Stepper.__call__ = make_step


if __name__ == "__main__":
    fault, rank, step, *arguments = sys.argv[1:]
    if distributed.rank() == int(rank):
        break_steps(fault, int(step))
    sys.exit(main(arguments))
