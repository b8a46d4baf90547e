"""The network that a pretraining run starts from, as a run's folder: the baseline that pretraining has to beat.

    python tools/untrained_run.py -c CONFIG.yaml -o Global.seed=0 --to output/start

The weights are those before the first step of `passl-train` with the same config and overrides.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from passl.cli.run import make_parser  # noqa: E402


def main(arguments=None) -> int:
    parser = make_parser("untrained_run", "Write the network that a pretraining run starts from as a run's folder.")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="where passl.pdparams and config.yaml go")
    options = parser.parse_args(arguments)
    from passl.engine import environment
    from passl.engine.session import read

    config = read(options.config, options.override)
    environment.select_device("cpu")
    import paddle

    from passl.data import build_loader
    from passl.engine.components import build_method
    from passl.weights.locate import WEIGHTS

    loader = build_loader(config.DataLoader.Train, seed=config.Global.seed)
    environment.seed_everything(config.Global.seed)
    model = build_method(config, loader).model
    folder = Path(options.to)
    folder.mkdir(parents=True, exist_ok=True)
    paddle.save({name: tensor.numpy() for name, tensor in model.state_dict().items()}, str(folder / WEIGHTS))
    config.save(str(folder / "config.yaml"))
    print(f"weights before the first step: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
