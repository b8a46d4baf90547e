"""How the failures and warnings of a command reach its user."""
from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Callable

from passl.errors import ConfigError, UserError

PACKAGE = os.path.join(str(Path(__file__).resolve().parents[1]), "")


def run_guarded(program: str, action: Callable[[], None], after_interrupt: str = "") -> int:
    """Run a command; what its user can put right ends it with a message instead of a traceback.

    Status 2 and all problems for a configuration, 1 for the rest; Ctrl-C ends it with status 130 and
    `after_interrupt`, which tells how to go on. PASSL_TRACEBACK=1 shows the traceback of all of these. Warnings of this
    library are printed as `PROGRAM: warning: ...`.
    """
    plain = warnings.formatwarning
    warnings.formatwarning = lambda message, category, filename, lineno, line=None: (
        f"{program}: warning: {message}\n" if os.path.abspath(filename).startswith(PACKAGE)
        else plain(message, category, filename, lineno, line))
    for said in ("No ccache found", "When training, we now always track global mean"):  # Paddle's, of no use to anybody
        warnings.filterwarnings("ignore", message=said)
    try:
        action()
        return 0
    except (KeyboardInterrupt, UserError, OSError) as error:
        if os.environ.get("PASSL_TRACEBACK"):
            raise
        sys.stdout.flush()
        if isinstance(error, KeyboardInterrupt):
            print(f"{program}: interrupted{after_interrupt and '; '}{after_interrupt}", file=sys.stderr)
            return 130
        is_config = isinstance(error, ConfigError)
        print(f"{program}: {'' if is_config else 'error: '}{error}", file=sys.stderr)
        return 2 if is_config else 1
    finally:
        warnings.formatwarning = plain
