"""The scaling benchmark runs from start to table, with a network of next to nothing."""
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_table_of_a_tiny_network(repository):
    command = [sys.executable, str(repository / "tools" / "benchmarks" / "scaling.py"), "--arch", "resnet10"]
    command += ["--channels", "4", "--size", "16", "--batch-size", "8", "--prototypes", "12", "--steps", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    rows = {row[0].strip(): [cell.strip() for cell in row[1:]]
            for row in (line.strip("|").split("|") for line in run.stdout.splitlines() if line.startswith("| "))}
    assert list(rows) == ["run", "1 rank", "1 rank, half the images", "2 processes, no communication",
                          "2 ranks, weak scaling", "2 ranks, strong scaling"]
    assert [rows[name][0] for name in list(rows)[1:]] == ["8", "4", "8", "8", "4"]  # images a rank
    calls = {name: int(row[4]) for name, row in rows.items() if name != "run"}
    # Of the two crops of one size: 12 norms and the head's, each forward and backward; assignment 3, mean loss 1.
    assert set(calls.values()) == {0, 2 * 13 + 4} and calls["1 rank"] == 0
    assert len(re.findall(r"^(weak|strong) scaling: .*What limits it: ", run.stdout, re.MULTILINE)) == 2
