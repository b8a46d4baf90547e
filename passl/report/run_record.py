"""How a run went: its records read again, and curves as SVG that take the colours of the page."""
from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np

from passl.report.contents import TrainingRecord
from passl.weights.locate import find_config, find_weights

WARNING = re.compile(r"^\[[\d/]+ [\d:]+\] passl WARNING: (.*)$")
# Stand-ins that no plot uses otherwise; the page's colours take their places.
INK, QUIET, FIRST, SECOND = "#010203", "#040506", "#070809", "#0a0b0c"
COLOURS = {INK: "var(--ink)", QUIET: "var(--line)", FIRST: "var(--accent)", SECOND: "var(--second)"}
PANELS = (("loss", "target_entropy"), ("prototypes_used",), ("eval_knn20", "eval_online_probe", "probe_top1"))


def read_training(model: str) -> Optional[TrainingRecord]:
    """The records beside a run's folder or checkpoint; None for other weights and runs without metrics.jsonl."""
    path = Path(model)
    config = path / "config.yaml" if (path / "metrics.jsonl").is_file() else find_config(find_weights(model))
    folder = config.parent if config else path
    if not (folder / "metrics.jsonl").is_file():
        folder = folder.parent  # <run>/latest/config.yaml
    if not (folder / "metrics.jsonl").is_file():
        return None
    records = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue  # the half line of a killed process
    warnings = []
    if (folder / "train.log").is_file():
        for line in (folder / "train.log").read_text(encoding="utf-8", errors="replace").splitlines():
            found = WARNING.match(line)
            if found and found[1] not in warnings:
                warnings.append(found[1])
    return TrainingRecord([record for record in records if record.get("loss") is not None],
                          [record for record in records if any(name.startswith("eval_") for name in record)], warnings)


def curves(record: TrainingRecord) -> List[Tuple[List[str], str]]:
    """([names of the lines], SVG) for every panel that the run has numbers for: loss and entropy with ln K, share of
    prototypes used, accuracy."""
    panels = []
    for names in PANELS:
        lines = {name: points for name in names for points in [_points(record, name)] if len(points) > 1}
        if lines:
            level = math.log(record.prototypes) if names[0] == "loss" and record.prototypes > 1 else None
            panels.append((list(lines), _draw(lines, level)))
    return panels


def _points(record: TrainingRecord, name: str) -> np.ndarray:
    """(step, value) rows, float [n, 2]."""
    source = record.evaluations if name.startswith("eval_") else record.history
    return np.array([(one["step"], one[name]) for one in source if one.get(name) is not None], float).reshape(-1, 2)


def _draw(lines: Dict[str, np.ndarray], level: Optional[float]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "passl", "text.color": INK, "font.size": 9,
                                "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": QUIET}):
        figure = Figure(figsize=(4.2, 2.4), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=QUIET, linewidth=0.6)
        axes.tick_params(length=0, labelcolor=INK)
        for points, colour in zip(lines.values(), (FIRST, SECOND, INK)):
            window = max(1, len(points) // 60)
            smooth = np.convolve(points[:, 1], np.full(window, 1 / window), "valid")
            axes.plot(points[window // 2:window // 2 + len(smooth), 0], smooth, color=colour, linewidth=1.6,
                      marker="o" if len(points) < 12 else None, markersize=3)
        if level is not None:
            axes.axhline(level, color=INK, linestyle=(0, (4, 4)), linewidth=0.9)
        axes.margins(x=0.02)
        file = io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg"):]
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
