"""A `Report` as one HTML file that asks for nothing: data, pictures, styles and script inside."""
from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import date
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence

import numpy as np

import passl
from passl import files
from passl.errors import UserError
from passl.evaluation.cluster_metrics import contingency
from passl.files import PathLike
from passl.report.contents import Clustering, NetworkView, Report
from passl.report.run_record import curves
from passl.report.thumbnails import fit_into

HERE = Path(__file__).parent
LANGUAGES = ("en", "zh")
EXAMPLES = 12  # pictures of each kind that a cluster's card can show
OUTLIERS = 60
MOST_CLASSES = 30  # beyond that the table of classes names the most frequent confusions only
KINDS = {"u1": np.uint8, "u2": np.uint16, "i4": np.int32, "f4": np.float32}


def write_page(report: Report, path: PathLike, language: str = "en", megabytes: float = 25.0,
               thumbnail_side: int = 96, folder: bool = False) -> Path:
    """Write `report` to `path` and give it back.

    language: "en" or "zh", what the page opens in; a button changes it. megabytes: what the file may have; thumbnails
    become smaller, and at last fewer, to fit. folder: thumbnails go into a folder beside the page instead
    (report_pictures/ beside report.html), all of them at full size, and the page needs that folder.
    UserError for a language there is none of, or a limit that leaves no room for pictures.
    """
    if language not in LANGUAGES:
        raise UserError(f"the page speaks {' and '.join(LANGUAGES)}, not '{language}'")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    path = Path(path)
    texts = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    script, style = ((HERE / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    summaries = [[clustering.summaries(report.known_labels, EXAMPLES) for clustering in view.clusterings]
                 for view in report.networks]
    data = _data(report, summaries)
    pictures = f"{path.stem}_pictures" if folder else ""
    values = {
        "report": report, "language": language, "languages": LANGUAGES, "texts": texts, "style": style,
        "script": script, "script_hash": _hash(script), "version": passl.__version__, "day": date.today().isoformat(),
        "curves": [curves(view.training) if view.training else [] for view in report.networks],
        "confusions": [[_confusion(clustering, report) for clustering in view.clusterings] for view in report.networks],
        "rows": _comparison(report, summaries), "showable": showable, "data": data, "pictures": pictures,
        "thumbnails": "", "ends": []}
    template = environment.get_template("page.html")
    if folder:
        _write_pictures(path.parent / pictures, report.thumbnails)
    else:
        space = int(megabytes * 1e6) - len(template.render(**values).encode("utf-8", "surrogatepass"))
        space -= 12 * len(report.thumbnails)  # where each of them ends
        if space < 0:
            raise UserError(f"without any picture the page has {megabytes - space / 1e6:.1f} MB: allow more")
        first = (row for view in summaries for clusters in view for cluster in clusters
                 for row in (*cluster.nearest[:8], *cluster.border[:8], *cluster.random[:8]))
        thumbnails = fit_into(report.thumbnails, [*first, *(row for group in report.duplicates for row in group)],
                              int(space * 0.74), thumbnail_side)  # base64 makes four bytes of three
        encoded = [base64.b64encode(one).decode() for one in thumbnails]
        values.update(thumbnails="".join(encoded), ends=np.cumsum([len(one) for one in encoded], dtype=int).tolist())
    files.write_text(path, template.render(**values))
    return path


def packed(values: Any, kind: str) -> Dict[str, str]:
    """An array as the script unpacks it: kind of its numbers, and their little-endian bytes in base64."""
    array = np.ascontiguousarray(values, np.dtype(KINDS[kind]).newbyteorder("<"))
    return {"kind": kind, "bytes": base64.b64encode(array.tobytes()).decode()}


def showable(name: str) -> str:
    """A name in which nothing is invisible: control characters, marks of direction and bytes that are no text show as
    escapes. The script does the same (`showable` in page.js)."""
    return "".join(f"\\x{ord(character) - 0xdc00:02x}" if 0xdc80 <= ord(character) <= 0xdcff else
                   f"\\u{ord(character):04x}" if _is_hidden(ord(character)) else character for character in name)


def _is_hidden(code: int) -> bool:
    return (code < 32 or 0x7f <= code < 0xa0 or code in (0x61c, 0xfeff) or 0x200b <= code <= 0x200f
            or 0x2028 <= code <= 0x202e or 0x2060 <= code <= 0x206f or 0xd800 <= code <= 0xdfff)


def _hash(script: str) -> str:
    """What the page's policy allows to run: this script and nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _data(report: Report, summaries) -> Dict[str, Any]:
    """What the script reads; numbers in full only where a reader sees them in full."""
    return {
        "root": report.root, "names": list(report.names), "classes": list(report.classes),
        "labels": packed(report.labels, "i4") if report.known_labels is not None else None,
        "duplicates": [list(map(int, group)) for group in report.duplicates], "identical": list(report.identical),
        "networks": [_network(view, found) for view, found in zip(report.networks, summaries)]}


def _network(view: NetworkView, summaries) -> Dict[str, Any]:
    return {
        "name": view.name, "points": packed(np.rint(view.points * 65535), "u2"),
        "neighbours": packed(view.neighbours.indices, "i4"), "width": int(view.neighbours.indices.shape[1]),
        "cosines": packed(np.rint(view.neighbours.cosines.clip(0, 1) * 255), "u1"),
        "outliers": np.argsort(-view.outliers, kind="stable")[:OUTLIERS].tolist(),
        "strangeness": packed(view.outliers, "f4"),
        "clusterings": [_clustering(clustering, found) for clustering, found in zip(view.clusterings, summaries)]}


def _clustering(clustering: Clustering, summaries) -> Dict[str, Any]:
    neighbours, points = _centres(clustering)
    return {
        "name": clustering.name, "note": clustering.note, "assigned": packed(clustering.assigned, "i4"),
        "score": packed(clustering.score, "f4"),
        "confidence": packed(np.rint(clustering.confidence.clip(0, 1) * 255), "u1"),
        "points": points, "clusters": [
            {"size": one.size, "confidence": round(one.confidence, 4), "label": one.label, "mark": one.mark,
             "purity": None if one.purity is None else round(one.purity, 4), "nearest": one.nearest,
             "border": one.border, "random": one.random, "like": like}
            for one, like in zip(summaries, neighbours)]}


def _centres(clustering: Clustering):
    """(of each cluster the five nearest others with their cosines, positions of all on a plane)."""
    from passl.evaluation.neighbours import neighbours_of_each
    from passl.evaluation.plane import plane_map

    if clustering.centres is None:
        return [[] for _ in range(clustering.count)], None
    found = neighbours_of_each(clustering.centres, 5)
    like = [[[int(index), round(float(cosine), 3)] for index, cosine in zip(indices, cosines)]
            for indices, cosines in zip(found.indices, found.cosines)]
    method = "tsne" if clustering.count > 30 else "pca"
    return like, packed(np.rint(plane_map(clustering.centres, method) * 65535), "u2")


def _comparison(report: Report, summaries) -> List[Dict[str, Any]]:
    """One row for each network and clustering."""
    rows = []
    for view, found in zip(report.networks, summaries):
        for clustering, clusters in zip(view.clusterings, found):
            sizes = [cluster.size for cluster in clusters]
            rows.append({"network": view.name, "clustering": clustering.name, "count": clustering.count,
                         "used": sum(size > 0 for size in sizes), "largest": max(sizes, default=0),
                         "confidence": float(clustering.confidence.mean()), "metrics": clustering.metrics,
                         "knn": view.knn, "note": clustering.note})
    return rows


def _confusion(clustering: Clustering, report: Report):
    """Classes against the classes that clusters are named after: {"classes", "table"}, or the ten most frequent
    {"pairs"} of many classes; None without classes."""
    labels = report.known_labels
    if labels is None:
        return None
    counts = contingency(clustering.assigned, labels)  # of the clusters and classes that occur
    classes = np.unique(labels[labels >= 0])
    table = np.zeros((len(classes), len(classes)), np.int64)
    for cluster, majority in enumerate(counts.argmax(1)):
        table[:, majority] += counts[cluster]
    names = [report.classes[label] if label < len(report.classes) else str(label) for label in classes]
    accuracy = float(np.trace(table) / table.sum())
    if len(classes) <= MOST_CLASSES:
        return {"classes": names, "table": table.tolist(), "sums": table.sum(1).tolist(), "accuracy": accuracy}
    off = table * (1 - np.eye(len(classes), dtype=np.int64))
    most = [divmod(int(flat), len(classes)) for flat in np.argsort(-off, axis=None, kind="stable")[:10]]
    return {"pairs": [(names[one], names[other], int(off[one, other])) for one, other in most if off[one, other]],
            "accuracy": accuracy}


def _write_pictures(folder: Path, thumbnails: Sequence[bytes]) -> None:
    """0000000.webp, ... in `folder`, of an earlier page of the same name if there was one."""
    os.makedirs(folder, exist_ok=True)
    for number, thumbnail in _present(thumbnails):
        with files.written_aside(folder / f"{number:07d}.webp") as file:
            file.write(thumbnail)


def _present(thumbnails: Sequence[bytes]) -> Iterable:
    return ((number, one) for number, one in enumerate(thumbnails) if one)
