"""Run an exported model in Paddle Inference: `python -m passl.inference.exported PREFIX INPUT.npy OUTPUT.npy`.

INPUT holds normalised images, float32 [B, 3, H, W]. Needs nothing of this library but this file, so it also serves as
an example for deployment.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import List

import numpy as np


def model_files(prefix: Path) -> List[Path]:
    """What an export wrote: the program (.json in Paddle 3, .pdmodel in Paddle 2) and the weights."""
    return [file for suffix in (".json", ".pdmodel", ".pdiparams")
            for file in [prefix.with_name(prefix.name + suffix)] if file.exists()]


def run_exported(prefix: Path, images: np.ndarray) -> np.ndarray:
    """Output of the exported files for `images`, on the CPU."""
    from paddle import inference

    files = model_files(prefix)
    if len(files) != 2:
        raise FileNotFoundError(f"no exported model at {prefix}: wanted {prefix}.json or .pdmodel, and .pdiparams")
    program, weights = files
    config = inference.Config(str(program), str(weights))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(images)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


def main(arguments: List[str]) -> str:
    """Run PREFIX on INPUT.npy; what went wrong, or an empty string."""
    if len(arguments) != 3:
        return "usage: python -m passl.inference.exported PREFIX INPUT.npy OUTPUT.npy"
    prefix, source, target = arguments
    try:
        images = np.load(source)
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype.kind != "f":
            return f"{source} holds {images.dtype} {list(images.shape)}; wanted are normalised floats [B, 3, H, W]"
        np.save(target, run_exported(Path(prefix), images.astype(np.float32)))
    except (OSError, ValueError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
