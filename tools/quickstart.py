"""`make quickstart`: pretrain SwAV on images made from what scikit-learn ships, and show what was learnt."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from passl.quickstart.run import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
