"""What several tests of data need."""


def touch(root, *names):
    """Empty files below `root`, with their folders."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
