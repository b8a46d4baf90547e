"""`passl list-models [PATTERN]`: the released models, their scores, licences and files."""
from __future__ import annotations

import argparse
import os
import sys
import textwrap
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from passl.weights.zoo import Release

WIDTH = 120
TRUNKS = {"swav": ("conv1", "bn1", "layer1 to layer4"),
          "passl": ("encoder.conv1", "encoder.bn1", "encoder.layer1 to encoder.layer4"),
          "sela-alexnet": ("features.0 to features.15", "classifier.1", "classifier.4"),
          "sela-resnetv2": ("features.0", "features.2 to features.5")}
MEASURES = {"": "linear probe", "linearprobe": "linear probe", "finetune": "the fine-tuned network itself"}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print the table, or the whole entry of each model that matches PATTERN. Exit status 1 when none does."""
    parser = argparse.ArgumentParser(prog="passl list-models", description="Released models that passl loads.")
    parser.add_argument("pattern", nargs="?", help="a name or shell pattern such as 'swav_*': prints whole entries")
    options = parser.parse_args(argv)
    from passl.weights.zoo import RELEASES, list_models, release, weights_folder

    if options.pattern is None:
        print(table(RELEASES))
        print("\ntop-1: ImageNet, per cent, as published; of a linear probe, or of the network itself when it is a "
              f"fine-tuned one.\n`passl list-models NAME` prints a whole entry. Files are looked for in "
              f"{weights_folder()}.")
        return 0
    names = list_models(options.pattern)
    if not names:
        print(f"no released model matches '{options.pattern}'", file=sys.stderr)
        return 1
    print("\n\n".join(entry(release(name), weights_folder()) for name in names))
    return 0


def table(releases: Sequence[Release]) -> str:
    """One line for each release, under the page and the licence that they share."""
    groups: Dict[Tuple[str, str], List[Release]] = {}
    for one in releases:
        groups.setdefault((one.page, one.licence), []).append(one)
    return "\n\n".join(_group(page, licence, members) for (page, licence), members in groups.items())


def _group(page: str, licence: str, members: Sequence[Release]) -> str:
    rows = [("name", "network", "crops", "epochs", "top-1", "file")]
    for one in members:
        file = one.file + (" (passl-convert only)" if one.convert_only else "")
        rows.append((one.name, one.architecture, one.crops, str(one.epochs or ""),
                     "" if one.accuracy is None else f"{one.accuracy:.1f}", file))
    columns = [column for column in zip(*rows) if any(column[1:])]  # what nothing is known of takes no room
    widths = [max(map(len, column)) for column in columns]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in zip(*columns)]
    methods = ", ".join(dict.fromkeys(one.method for one in members))
    return "\n".join([f"{methods}: {page}", f"licence: {licence}", *lines])


def entry(one: Release, folder: str) -> str:
    """Everything that is known of a release, for people; `folder` is where its file is looked for."""
    from passl.weights.layouts.keymaps import LAYOUTS

    path = os.path.join(folder, one.file)
    norm = "with" if one.head_batch_norm else "without"
    use = ("passl-convert only: the network is not built here" if one.convert_only else
           f"passl.get_model('{one.name}', pretrained=True)")
    fields = [
        ("method", one.method),
        ("network", one.architecture + (f", weights from the release {one.trunk}" if one.trunk else "")),
        ("head", one.embedding and f"{one.hidden} hidden, {norm} batch norm, {one.embedding} outputs"),
        ("prototypes", " + ".join(map(str, one.prototypes))),
        ("classes", " + ".join(map(str, one.classes))),
        ("epochs", one.epochs),
        ("crops", one.crops),
        ("top-1", "not published for this file" if one.accuracy is None else
         f"{one.accuracy:.1f} % on ImageNet ({MEASURES[one.classifier]})"),
        ("licence", one.licence),
        ("page", one.page),
        ("url", one.url),
        ("inside", one.member),
        ("sha256", one.sha256 or "none published"),
        ("keys", LAYOUTS[one.keys].name),
        ("trunk keys", "" if one.trunk else ", ".join(one.prefix + key for key in TRUNKS[one.keys])),
        ("head keys", ", ".join(one.head_keys())),
        ("file", path + ("" if os.path.exists(path) else " (not there yet)")),
        ("use", use)]
    lines = [textwrap.fill(str(value), WIDTH, initial_indent=f"  {label:<12}", subsequent_indent=" " * 14,
                           break_long_words=False, break_on_hyphens=False) for label, value in fields if value]
    return "\n".join([one.name, *lines])
