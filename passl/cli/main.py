"""`passl VERB ...`: every command under one name."""
from __future__ import annotations

import importlib
import sys
from typing import Dict, List, Optional, Tuple

import passl

# verb -> (module with main(arguments), what it does)
VERBS: Dict[str, Tuple[str, str]] = {
    "train": ("passl.cli.train", "pretrain, train a linear probe or fine-tune, as a config says"),
    "eval": ("passl.cli.eval", "accuracy of a trained classifier, with confusion matrix"),
    "knn": ("passl.cli.knn", "k-NN accuracy of features; nothing is trained"),
    "probe": ("passl.cli.probe", "fast linear probe on features extracted once"),
    "predict": ("passl.cli.predict", "classify images"),
    "embed": ("passl.cli.embed", "features of images as .npy"),
    "assign": ("passl.cli.assign", "cluster of each image"),
    "report": ("passl.cli.report", "clusters, map, duplicates and outliers as a page to look at"),
    "export": ("passl.cli.export", "Paddle inference model or ONNX"),
    "recalibrate": ("passl.cli.recalibrate", "batch-norm statistics measured at one resolution"),
    "convert": ("passl.cli.convert", "weights from and to other libraries"),
    "list-models": ("passl.cli.list_models", "released models and their scores"),
}


def usage() -> str:
    width = max(map(len, VERBS))
    lines = "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items())
    return f"usage: passl VERB ...\n\n{lines}\n\n`passl VERB --help` tells more; each verb is a command passl-VERB too."


def main(arguments: Optional[List[str]] = None) -> int:
    """Hand over to a verb; exit status 2 for an unknown one."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"passl {passl.__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        from passl.registry import nearest

        print(f"passl: unknown verb '{verb}'{nearest(verb, VERBS)}\n\n{usage()}", file=sys.stderr)
        return 2
    return importlib.import_module(VERBS[verb][0]).main(rest)


if __name__ == "__main__":
    sys.exit(main())
