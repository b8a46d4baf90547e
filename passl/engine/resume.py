"""What a run starts from, and whether that is the same run, on all ranks: before a step spreads what one has wrong."""
from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from passl import distributed
from passl.config import Config, load_config
from passl.engine import checkpoint
from passl.engine.log import LOGGER
from passl.engine.progress import NamedParts
from passl.errors import CheckpointError

# These say where a run starts, not what it does.
START_KEYS = ("Global.checkpoint", "Global.overwrite", "Global.train_loop", "Global.validate_loop")  # old configs
# What may differ from one machine to the next without changing the result.
MACHINE_KEYS = (".root", ".image_root", ".cls_label_path", ".txt_file_name", ".num_workers", ".use_shared_memory",
                ".prefetch_batches", "Global.num_threads", "Global.progress")
PATIENCE = 5.0  # seconds a network file system may take to show a new file


def choose(settings: Mapping[str, Any], folder: Path) -> Optional[str]:
    """The checkpoint to resume, None for a fresh start; JointFailure when neither is possible without harm.

    settings: the Global section. Rank 0 looks and tells the others, whose view of a shared folder may be older.
    """
    start, refusal = None, ""
    if distributed.rank() == 0:
        try:
            start = _choose(settings, Path(folder))
        except CheckpointError as error:
            refusal = str(error)
    start, refusal = distributed.gather_objects([start, refusal])[0]
    if refusal:
        raise distributed.JointFailure(refusal)
    return start


def _choose(settings: Mapping[str, Any], folder: Path) -> Optional[str]:
    latest, steps = folder / "latest", checkpoint.stored(folder)
    if settings["checkpoint"] and settings["checkpoint"] != "auto":
        return settings["checkpoint"]
    if not os.path.lexists(latest) and not steps:
        return None
    if not settings["checkpoint"]:
        if settings["overwrite"]:
            return None
        raise CheckpointError(
            f"{folder} holds an earlier run: go on with it by -o Global.checkpoint=auto, write elsewhere by "
            "-o Global.output_dir=..., or remove its checkpoints and metrics and start anew by "
            "-o Global.overwrite=True")
    problems = []
    for candidate in [latest, *steps]:
        try:
            checkpoint.verify(checkpoint.locate(str(candidate)))
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            LOGGER.warning(f"{problems[0]}. Global.checkpoint=auto takes the newest that is whole: {candidate}")
        return str(candidate)
    raise CheckpointError(
        f"Global.checkpoint=auto: {folder} holds an earlier run, but no checkpoint of it can be used. "
        f"{'; '.join(dict.fromkeys(problems))}. Restore one, or start anew with another Global.output_dir or with "
        "-o Global.checkpoint=None Global.overwrite=True")


def load(prefix: str) -> checkpoint.Loaded:
    """`checkpoint.load` on every rank; when one cannot read it, all fail and name it."""
    if distributed.world_size() == 1:
        return checkpoint.load(prefix)
    with distributed.together("reading the checkpoint", CheckpointError, OSError):
        loaded = checkpoint.load(prefix)
    return loaded


def restore(parts: NamedParts, prefix: str) -> None:
    """Continue, with the freshly built parts of a run, the one whose checkpoint `prefix` names.

    Exact when ranks, data and settings are unchanged; what is not is said in the log.
    """
    loaded = load(prefix)
    states, progress = loaded.states, parts.progress
    shapes = {name: tuple(tensor.shape) for name, tensor in parts.method.model.state_dict().items()}
    compare(loaded, parts.config, shapes)
    note = parts.load(loaded)

    total = progress.epochs * parts.sizes["iterations_per_epoch"]
    place = f", place {progress.position} of {total} in the schedule"
    LOGGER.info(f"Finish load checkpoint from {loaded.directory}: epoch {progress.epoch + 1}, step {progress.step}"
                f"{place if progress.position != progress.step else ''}")
    world_size = distributed.world_size()
    if states["world_size"] != world_size:
        LOGGER.info(f"resumed on {world_size} ranks instead of {states['world_size']}, after {progress.consumed} "
                    f"samples of the epoch{'; ' + note if note else ''}")
    elif note:
        LOGGER.info(note)
    before, now = ([sizes["iterations_per_epoch"], sizes["global_batch"]] for sizes in (states, parts.sizes))
    if before != now:
        LOGGER.warning(f"an epoch had {before[0]} iterations of {before[1]} images when the checkpoint was written "
                       f"and has {now[0]} of {now[1]} now: not an exact continuation. The schedule goes on at the "
                       "same epoch; learning rates are not adapted to the batch unless Global.lr_base_batch is set")


def compare(loaded: checkpoint.Loaded, config: Config, shapes: Mapping[str, Tuple[int, ...]]) -> None:
    """Say which settings are not those of the checkpoint; JointFailure when it is of another network or optimizer.

    shapes: of this run's parameters and buffers, by name.
    """
    path = loaded.directory / checkpoint.CONFIG
    saved_config = load_config(str(path)) if path.is_file() else None
    for key in ("Model.name", "Optimizer.name"):
        own = config.get_path(key)
        saved = saved_config.get_path(key) if saved_config is not None else own
        if saved != own:
            raise distributed.JointFailure(
                f"{loaded.directory} was written with {key} {saved}, this run has {own}: resume with {path}, or start "
                "a new run from its weights with Global.pretrained_model")
    saved_shapes = {name: tuple(value.shape) for name, value in loaded.parameters.items()}
    if saved_shapes != shapes:
        name = sorted(set(shapes.items()) ^ set(saved_shapes.items()))[0][0]
        raise distributed.JointFailure(
            f"{loaded.directory} holds another architecture: {name} is {saved_shapes.get(name, 'absent')} there and "
            f"{shapes.get(name, 'absent')} here; resume with the config saved in it, {path}, or start a new run from "
            "its weights with Global.pretrained_model")
    changes = changed_settings(saved_config, config) if saved_config is not None else []
    if changes:
        LOGGER.warning("settings that were others when the checkpoint was written: " + ", ".join(changes))


def changed_settings(saved: Config, config: Config) -> List[str]:
    """"Global.seed 31 -> 32" for every setting that differs, in the order of their names."""
    before, now = flat_settings(saved), flat_settings(config)
    return [f"{key} {_short(before.get(key, 'absent'))} -> {_short(now.get(key, 'absent'))}"
            for key in sorted({**before, **now}) if key not in START_KEYS
            and (key not in before or key not in now or before[key] != now[key])]


def flat_settings(config: Config) -> Dict[str, Any]:
    """Every value of a configuration by its dotted path; lists of plain values and empty sections are values."""
    def walk(path: str, value: Any):
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from walk(f"{path}.{key}" if path else key, inner)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for place, inner in enumerate(value):
                yield from walk(f"{path}.{place}", inner)
        else:
            yield path, value

    return dict(walk("", config.plain()))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


# -------------------------------------------------------------------------------------------------- ranks
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
