"""`python tools/train.py -c ...` from a checkout: the same as the installed `passl-train`."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from passl.cli.train import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
