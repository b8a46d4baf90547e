"""`passl-train -c config.yaml [-o Section.key=value ...]`: train what a config describes."""
from __future__ import annotations

import sys
from typing import List, Optional

from passl.cli.run import make_parser, profiler_options, run_guarded


def main(arguments: Optional[List[str]] = None) -> int:
    """Entry point of the command; also `python tools/train.py` and every rank under paddle.distributed.launch."""
    parser = make_parser("passl-train", "Train what a config file describes: pretraining, linear probe or fine-tuning.")
    options = parser.parse_args(arguments)

    def train():
        from passl.engine.session import start

        with start(options.config, options.override) as config:
            from passl.engine.profile import Profile
            from passl.engine.trainer import Trainer

            profiles = [Profile(profiler_options(options.profiler_options))] if options.profiler_options else []
            Trainer(config, profiles).run()

    return run_guarded(parser.prog, train)


if __name__ == "__main__":
    sys.exit(main())
