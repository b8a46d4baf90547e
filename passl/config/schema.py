"""Every configuration key that is not a component's own: name, type, default, help.

To add a key, add a line. Keys of methods, backbones, datasets, transforms, samplers, optimizers, schedules, losses and
metrics are the parameters of their constructors and need no line here. `python -m passl.config` prints these tables.
"""
from __future__ import annotations

import os
from typing import Any, Dict, List, Literal, Optional

from passl.config.fields import ABSENT, REQUIRED, Component, ComponentList, GroupList, Key, Legacy, Section
from passl.errors import UserError


def _flags(flags: Dict[str, Any]) -> Dict[str, Any]:
    wrong = [name for name in flags if not name.startswith("FLAGS_")]
    if wrong:
        raise UserError(f"Paddle flags start with FLAGS_, '{wrong[0]}' does not")
    return flags


def _home(path: Optional[str]) -> Optional[str]:
    return None if path is None else os.path.expanduser(path)


def _batch_norm_mode(mode: Any) -> Any:
    if mode is None:
        return "none"
    if mode in ("none", "global"):
        return mode
    if isinstance(mode, dict) and list(mode) == ["group"] and type(mode["group"]) is int and mode["group"] > 0:
        return mode
    raise UserError("expected none, global or {group: <number of processes>}")


def _growth(ratio: float) -> float:
    if not ratio > 1:
        raise UserError("must be above 1, or the scale never grows")
    return ratio


def _shrinkage(ratio: float) -> float:
    if not 0 < ratio < 1:
        raise UserError("must lie between 0 and 1, or the scale never shrinks")
    return ratio


GLOBAL = Section(
    # what runs
    Key("epochs", int, REQUIRED, "Length of training; schedules span it. SwAV: 100 to 800 on ImageNet, more on less"
        " data: count steps, not epochs.", minimum=1),
    Key("max_train_step", Optional[int], None, "Stop after this many optimizer steps, schedules unchanged; for trials.",
        minimum=1),
    Key("accum_steps", int, 1, "Micro-batches per optimizer step; raise it when the batch does not fit memory.",
        minimum=1),
    Key("lr_base_batch", Optional[int], None, "The global batch the learning rates were tuned for; they are then scaled"
        " linearly to this run's. None uses them as they stand.", minimum=1),
    Key("seed", int, 31, "Decides initial weights, shuffling and augmentation; 0 is a seed like any other.",
        minimum=0),
    # where it starts and what it writes
    Key("checkpoint", Optional[str], None, "Resume exactly from this checkpoint, for instance"
        " output/<Model.name>/latest. auto: from the run's own latest if there is one, for jobs that are restarted.",
        convert=_home),
    Key("overwrite", bool, False, "Start afresh where an earlier run is and remove its checkpoints and metrics. Without"
        " it such a start is refused; it does nothing when checkpoint is set."),
    Key("pretrained_model", Optional[str], None, "Start from these weights, with or without suffix; optimizer and"
        " epoch start afresh.", convert=_home),
    Key("output_dir", str, "./output/", "Everything a run writes goes to <output_dir>/<Model.name>.",
        convert=_home),
    Key("save_interval", int, 1, "Epochs between checkpoints.", minimum=1),
    Key("save_step_interval", int, 0, "Also save `latest` every this many steps; 0 is off. For epochs of an hour and"
        " machines that get taken away.", minimum=0),
    Key("max_num_latest_checkpoint", int, 0, "epoch_N checkpoints kept: 0 none (latest and best remain), n the newest"
        " n, negative all."),
    # watching
    Key("eval_during_train", bool, False, "Evaluate while training; probe and fine-tuning keep the best epoch by it."),
    Key("eval_interval", int, 1, "Evaluate every this many eval_unit.", minimum=1),
    Key("eval_unit", Literal["epoch", "step"], "epoch", "What eval_interval counts."),
    Key("print_batch_step", int, 10, "Steps between log lines.", minimum=1),
    Key("use_visualdl", bool, False, "Write curves, the first crops and prototype usage for `visualdl --logdir`."),
    Key("progress", Literal["auto", "bar", "lines"], "auto", "auto: a bar on a terminal, plain lines elsewhere."),
    Key("knn_interval", int, 0, "Epochs between k-NN evaluations during pretraining; 0 is off. The cheapest honest"
        " sign of learning: the loss alone does not show a collapse.", minimum=0),
    Key("online_probe", bool, False, "Train a detached linear classifier beside pretraining; needs labels."),
    # machine
    Key("device", Literal["auto", "cpu", "gpu", "xpu", "npu"], "auto", "auto takes a GPU when Paddle sees one."),
    Key("allow_tf32", bool, False, "Let float32 matrix products run in TF32 on GPUs that have it: faster, but scores,"
        " assignments and clustering then have three digits."),
    Key("num_threads", Optional[int], None, "CPU threads per process; None is OMP_NUM_THREADS where that is set, else"
        " the machine's cores divided by the processes on it. Paddle alone starts with one, which halves the speed.",
        minimum=1),
    Key("engine", Literal["eager", "auto", "paddle", "onnxruntime", "openvino"], "eager", "What runs the network in the"
        " evaluations of a run on a CPU. eager gives the same bits in every run; the others are up to three times as"
        " fast and differ by rounding, and the weights are trained the same."),
    Key("flags", Dict[str, Any], {}, "Paddle flags, {FLAGS_name: value}.", convert=_flags),
    Key("collective_timeout", float, 1800.0, "Seconds a process waits for the others before it stops the"
        " job; above the longest checkpoint or evaluation of one rank.", minimum=1),
    Key("lost_rank_timeout", float, 60.0, "Seconds of silence after which a process counts as lost and the others stop"
        " (cut link, halted machine); a killed one is noticed at once.", minimum=1),
    Key("max_nonfinite_steps", int, 0, "Steps with a NaN or infinite loss or gradient to skip before giving up; 0"
        " stops at the first, which is right unless fp16 is young.", minimum=0),
    Legacy("task_type", "Model.name decides the task"),
    Legacy("train_loop", "one training loop serves every Model.name"),
    Legacy("validate_loop", "the evaluation follows from Model.name"),
    Legacy("use_dali", "images are decoded by the workers of DataLoader.*.loader"),
    Legacy("finetune", "Model.name decides what is trained, and pretrained_model what it starts from"),
)

RECOMPUTE = Section(
    Key("layerlist_interval", int, 1, "Recompute every n-th of the named stages; 1 saves most memory and costs about"
        " a third more time.", minimum=1),
    Key("names", List[str], [], "Stages to recompute, for instance [layer3, layer4]; empty is all of them."),
)

DISTRIBUTED_STRATEGY = Section(
    Key("data_parallel", bool, True, "Several processes each take a share of the batch; must be True with more than"
        " one."),
    Key("sync_batch_norm", Any, "global", "none, global or {group: 8}. SwAV's authors report the same accuracy for"
        " groups of 8 as for global, in half the time.", convert=_batch_norm_mode),
    Key("recompute", RECOMPUTE, ABSENT, "Trade time for memory in the trunk."),
    Legacy("data_sharding", "parameters are never sharded, these models fit one card"),
)

GRAD_SCALER = Section(
    Key("init_loss_scaling", float, 65536.0, "First loss scale; too high costs a few steps left out, nothing more."
        " Defaults of this section are those of the published runs; PASSL's are 1024, 1000 good and 2 bad steps.",
        minimum=1),
    Key("incr_ratio", float, 2.0, "Factor of the scale after incr_every_n_steps good steps.", convert=_growth),
    Key("decr_ratio", float, 0.5, "Factor of the scale after decr_every_n_nan_or_inf bad steps.", convert=_shrinkage),
    Key("incr_every_n_steps", int, 2000, "Good steps in a row before the scale grows.", minimum=1),
    Key("decr_every_n_nan_or_inf", int, 1, "Bad steps in a row before the scale shrinks; every one of them is left"
        " out, so 2 costs twice the steps.", minimum=1),
    Key("max_loss_scaling", float, 16777216.0, "The scale grows no further.", minimum=1),
    Key("use_dynamic_loss_scaling", bool, True, "False keeps init_loss_scaling throughout."),
    Legacy("no_unscale_list", "all gradients are unscaled before LARC reads their norms"),
)

FP16 = Section(
    Key("level", Literal["O0", "O1", "O2"], "O0", "O0 is fp32; O1 runs convolutions and matrix products in half"
        " precision, O2 nearly all of the network. Weights stay fp32. A section that is there but has no level means"
        " O2, as in PASSL."),
    Key("dtype", Literal["float16", "bfloat16"], "float16", "bfloat16 needs no loss scaling; Ampere or newer."),
    Key("GradScaler", GRAD_SCALER, {}, "Loss scaling; float16 only."),
    Key("fp16_custom_white_list", List[str], [], "Operators to run in half precision besides Paddle's list."),
    Key("fp16_custom_black_list", List[str], [], "Operators to keep in fp32 besides Paddle's list."),
)

CLASS_COUNT = {"num_classes": "class_num"}

MODEL = Component(
    "METHODS",
    Key("backbone", Component("BACKBONES", selector="type", aliases=CLASS_COUNT), ABSENT,
        "type and options of the network."),
    Legacy("apex", "synchronised batch norm is set by DistributedStrategy.sync_batch_norm"),
    aliases=CLASS_COUNT,
)

SCHEDULE = Component(
    "SCHEDULES",
    Key("decay_unit", Literal["step", "epoch"], ABSENT, "Whether the rate changes every step or every epoch; from"
        " Optimizer.lr_decay_unit."),
)

GRAD_CLIP = Section(
    Key("name", Literal["ClipGradByGlobalNorm"], "ClipGradByGlobalNorm", "One norm over all parameters."),
    Key("clip_norm", float, REQUIRED, "Largest norm of all gradients together; LARC recipes need none.", minimum=0),
)

PARAM_GROUPS = GroupList(
    Key("name", str, REQUIRED, "Regular expression, matched from the start of the parameter's name in the checkpoint."),
)

OPTIMIZER = Component(
    "OPTIMIZERS",
    Key("lr", SCHEDULE, REQUIRED, "Learning rate: a number or {name: TimmCosine, learning_rate: ...}. Published rates"
        " belong to a global batch; halve one with the other."),
    Key("grad_clip", GRAD_CLIP, ABSENT, "Gradient clipping."),
    Key("param_groups", PARAM_GROUPS, ABSENT, "Parameters with settings of their own; the first match wins."),
    Legacy("tensor_fusion", "gradients are reduced in buckets already"),
)

TRANSFORM = ComponentList("TRANSFORMS", inner="transforms")

DATASET = Component(
    "DATASETS",
    Key("transform", TRANSFORM, ABSENT, "Operations on one image, in order.", of_constructor=True),
    aliases={"transform_ops": "transform", **CLASS_COUNT},
)

SAMPLER = Component(
    "SAMPLERS",
    Key("batch_size", int, REQUIRED, "Images per process (PASSL: per card), not over all of them.", minimum=1),
    Key("drop_last", bool, False, "Leave out the last short batch; pretraining wants True."),
    Key("shuffle", bool, False, "A new order every epoch, from seed and epoch alone."),
    default="DistributedBatchSampler",
)

LOADER = Section(
    Key("num_workers", int, 4, "Processes that decode and augment; 0 does it in the training process. One per core"
        " until the data-wait share in the log is gone.", minimum=0),
    Key("prefetch_batches", int, 2, "Batches prepared ahead, by all workers together.", minimum=1),
    Legacy("use_shared_memory", "workers always hand batches over in anonymous shared memory, which needs no /dev/shm"),
    Legacy("collate_fn", "each dataset knows how its samples are batched"),
)

PHASE = Section(
    Key("dataset", DATASET, REQUIRED, "Where the images are and what is done to them."),
    Key("sampler", SAMPLER, REQUIRED, "Batch size and order."),
    Key("loader", LOADER, {}, "Worker processes."),
)

WEIGHT = Key("weight", float, 1.0, "Factor of this loss in the sum.")
LOSS = ComponentList("LOSSES", WEIGHT)
METRIC = ComponentList("METRICS")

EXPORT = Section(
    Key("export_type", Literal["paddle", "onnx"], "paddle", "onnx needs paddle2onnx."),
    Key("input_shape", List[Optional[int]], [None, 3, 224, 224], "Batch, channels, height, width; None is any size."),
)

SCHEMA = Section(
    Key("Global", GLOBAL, REQUIRED, "The run as a whole."),
    Key("DistributedStrategy", DISTRIBUTED_STRATEGY, {}, "Several processes."),
    Key("FP16", FP16, {}, "Mixed precision; absent is fp32."),
    Key("EMA", Dict[str, Any], ABSENT, "Moving average of the weights; training refuses it, no method here has one."),
    Key("Model", MODEL, REQUIRED, "Method, network and their options."),
    Key("Loss", Section(Key("Train", LOSS, ABSENT, "Summed losses."), Key("Eval", LOSS, ABSENT, "Reported losses.")),
        ABSENT, "Losses of probe and fine-tuning; clustering methods bring their own."),
    Key("Optimizer", OPTIMIZER, ABSENT, "Needed to train, not to evaluate or export."),
    Key("DataLoader", Section(Key("Train", PHASE, ABSENT, "Training images."),
                              Key("Eval", PHASE, ABSENT, "Evaluation images."),
                              Key("Bank", PHASE, ABSENT, "Labelled images that vote in k-NN; by default the training"
                                  " images under the Eval transform.")), ABSENT, "Images."),
    Key("Metric", Section(Key("Train", METRIC, ABSENT, "Logged while training."),
                          Key("Eval", METRIC, ABSENT, "The first decides which epoch is best.")), ABSENT, "Metrics."),
    Key("Export", EXPORT, ABSENT, "What passl-export writes."),
)
