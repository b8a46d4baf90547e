"""The loss of a run over its steps, as a picture."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Dict, List

import numpy as np


def read_history(path: Path) -> List[Dict[str, float]]:
    """The training steps of a run's `metrics.jsonl`, in order."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in records if "loss" in record and "step_time" in record]


def draw_loss(history: List[Dict[str, float]], prototypes: int, path: Path, title: str = "SwAV quickstart") -> None:
    """Loss and target entropy over the steps as PNG, with ln K, where a run that learns nothing stays."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    steps = [record["step"] for record in history]
    window = max(1, len(steps) // 40)
    for name, label in (("loss", "loss"), ("target_entropy", "entropy of the assignments")):
        values = np.array([record[name] for record in history])
        (line,) = axes.plot(steps, values, alpha=0.25, linewidth=0.8)
        smooth = np.convolve(values, np.full(window, 1 / window), "valid")
        middle = window // 2
        axes.plot(steps[middle:middle + len(smooth)], smooth, color=line.get_color(), label=label)
    axes.axhline(math.log(prototypes), color="grey", linestyle="--", linewidth=1,
                 label=f"ln {prototypes}: nothing learnt, or collapse")
    axes.set(xlabel="step", ylabel="nats", title=title)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
