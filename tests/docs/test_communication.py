"""The model of communication costs in docs/distributed.md: its table follows from its formulas."""
import re
from math import log2

import pytest

BANDWIDTH, LATENCY = 10e9, 10e-6  # bytes a second and seconds
GRADIENTS, SCORES, STATISTICS = 113_419_008, 24_000, 441_772  # bytes


def all_reduce(ranks, size, count=1):
    return count * 2 * log2(ranks) * LATENCY + 2 * (ranks - 1) / ranks * size / BANDWIDTH


def all_gather(ranks, size, count=1):
    return count * log2(ranks) * LATENCY + (ranks - 1) * size / BANDWIDTH


def model(ranks):
    """Milliseconds for gradients, assignment, batch norm in groups of 8 and Paddle's global batch norm."""
    seconds = (all_reduce(ranks, GRADIENTS, 5),
               all_gather(ranks, SCORES) + all_reduce(ranks, 2 * SCORES, 2),
               all_gather(8, STATISTICS, 107) + all_reduce(8, STATISTICS, 107),
               2 * all_reduce(ranks, STATISTICS, 107))
    return [1e3 * value for value in seconds]


def test_table_follows_from_the_model(repository):
    page = (repository / "docs" / "distributed.md").read_text()
    section = page.split("## Cost of communication: a model")[1].split("\n## ")[0]
    rows = [[float(cell) for cell in row.split("|")]
            for row in re.findall(r"^\| ([\d. |]+) \|$", section, re.MULTILINE)]
    assert [row[0] for row in rows] == [8, 16, 32, 64, 128, 256, 512]
    for ranks, *milliseconds in rows:
        assert milliseconds == pytest.approx(model(int(ranks)), abs=0.051), f"{ranks:.0f} ranks"
