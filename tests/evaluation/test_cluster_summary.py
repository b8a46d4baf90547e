"""Summaries of clusters against a plain loop."""
import numpy as np
import pytest

from passl.errors import UserError
from passl.evaluation.cluster_summary import summarise_clusters


def test_summaries_equal_a_plain_loop():
    generator = np.random.default_rng(0)
    rows, count = 200, 9
    assigned = generator.choice(count - 1, rows, p=[0.8, 0.05, 0.05, 0.03, 0.03, 0.02, 0.01, 0.01])
    score, margin, confidence = generator.random((3, rows)).round(1)  # rounded, so that many are equal
    labels = generator.integers(-1, 4, rows)
    summaries = summarise_clusters(assigned, score, margin, confidence, count, labels, pictures=5)
    assert len(summaries) == count and sum(summary.size for summary in summaries) == rows
    used = len(set(assigned.tolist()))
    for cluster, summary in enumerate(summaries):
        members = [row for row in range(rows) if assigned[row] == cluster]
        assert summary.size == len(members)
        assert summary.nearest == sorted(members, key=lambda row: (-score[row], row))[:5]
        assert summary.border == sorted(members, key=lambda row: (margin[row], row))[:5]
        assert set(summary.random) <= set(members) and len(set(summary.random)) == min(5, len(members))
        known = [labels[row] for row in members if labels[row] >= 0]
        if known:
            best = max(range(4), key=lambda label: (known.count(label), -label))
            assert (summary.label, summary.purity) == (best, pytest.approx(known.count(best) / len(known)))
        else:
            assert (summary.label, summary.purity) == (-1, None)
        assert summary.mark == ("empty" if not members else "giant" if len(members) > max(5 * rows / used, rows / 10)
                                else "")
    assert [summary.mark for summary in summaries][0] == "giant" and summaries[-1].mark == "empty"
    again = summarise_clusters(assigned, score, margin, confidence, count, labels, pictures=5)
    assert summaries == again


def test_without_classes_and_with_wrong_numbers():
    summary = summarise_clusters(np.array([0, 0]), *np.ones((3, 2)), 1)[0]
    assert (summary.purity, summary.label) == (None, -1)
    with pytest.raises(UserError, match="0 to 0"):
        summarise_clusters(np.array([0, 1]), *np.ones((3, 2)), 1)
