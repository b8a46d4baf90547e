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

    program, weights = model_files(prefix)
    config = inference.Config(str(program), str(weights))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(images)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()


if __name__ == "__main__":
    np.save(sys.argv[3], run_exported(Path(sys.argv[1]), np.load(sys.argv[2]).astype(np.float32)))
