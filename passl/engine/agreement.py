"""Whether all ranks are about to train the same thing, before the first step spreads what one of them has wrong."""
from __future__ import annotations

import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List

from passl import distributed
from passl.config import Config
from passl.engine.resume import flat_settings

# What may differ from one machine to the next without changing the result.
MACHINE_KEYS = (".root", ".image_root", ".cls_label_path", ".txt_file_name", ".num_workers", ".use_shared_memory",
                ".prefetch_batches", "Global.num_threads", "Global.progress")
PATIENCE = 5.0  # seconds a network file system may take to show a new file


def agree(folder: Path, config: Config, facts: Dict[str, Any]) -> None:
    """Raise JointFailure on all ranks unless they have the same settings, facts and output folder.

    facts: named JSON values that must be equal, for instance {"images": 1281167, "step": 0}.
    """
    if distributed.world_size() == 1:
        return
    probe = folder / f".shared-{distributed.gather_objects(secrets.token_hex(8))[0]}"
    with distributed.together("writing to the output folder", OSError):
        if distributed.rank() == 0:
            probe.write_text("")
    views = distributed.gather_objects({**facts, **shared_settings(config),
                                        f"sees what rank 0 writes to {folder}": _appears(probe)})
    if distributed.rank() == 0:
        probe.unlink()
    problems = differences(views)
    if problems:
        raise distributed.JointFailure("the processes of this job do not run the same thing, so nothing was trained:\n"
                                       + "\n".join(f"  {problem}" for problem in problems)
                                       + "\nStart all with the same command, data and shared Global.output_dir.")


def shared_settings(config: Config) -> Dict[str, str]:
    """The settings that must be the same on all machines, by their dotted path."""
    return {key: repr(value) for key, value in flat_settings(config).items() if not key.endswith(MACHINE_KEYS)}


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def differences(views: List[Dict[str, Any]]) -> List[str]:
    """One line for each rank and value that is not what most ranks have (rank 0, when there is no majority)."""
    lines = []
    for key in dict.fromkeys(key for view in views for key in view):
        values = [view.get(key, "absent") for view in views]
        usual = Counter(values).most_common(1)[0][0]
        lines += [f"rank {number}: {key} is {value}, elsewhere {usual}" for number, value in enumerate(values)
                  if value != usual]
    return lines
