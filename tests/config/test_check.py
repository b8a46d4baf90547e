import re
import warnings

import pytest

from passl.config import Config, ConfigError, ConfigWarning, check, load_config
from passl.registry import Registry

SMALL = """
Global:
  epochs: 10
Model:
  name: swav_resnet50_pretrain
  backbone: {type: swavresnet50}
Optimizer:
  name: Momentum
  lr: 0.1
DataLoader:
  Train:
    dataset: {name: ImageFolder, root: ./data}
    sampler: {batch_size: 8}
""".lstrip()


@pytest.fixture
def checked(write, registries):
    """checked(*overrides, text=...) -> the checked config; warnings are errors unless wanted."""
    def run(*overrides, text=SMALL):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConfigWarning)
            return check(load_config(write("a.yaml", text), overrides), registries)
    return run


@pytest.fixture
def problems(checked):
    def run(*overrides, text=SMALL):
        with pytest.raises(ConfigError) as caught:
            checked(*overrides, text=text)
        return caught.value.problems
    return run


@pytest.fixture
def warned(write, registries):
    """(checked config, warning texts)"""
    def run(*overrides, text=SMALL):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            config = check(load_config(write("a.yaml", text), overrides), registries)
        return config, [str(warning.message) for warning in caught]
    return run


def test_defaults_are_filled_in_the_order_of_the_tables(checked):
    config = checked()
    assert list(config) == ["Global", "DistributedStrategy", "FP16", "Model", "Optimizer", "DataLoader"]
    assert config.Global.seed == 31 and config.Global.device == "auto" and config.Global.collective_timeout == 1800.0
    assert config.DistributedStrategy == {"data_parallel": True, "sync_batch_norm": "global"}
    assert config.FP16.level == "O0" and config.FP16.GradScaler.init_loss_scaling == 65536.0
    assert config.Model.crops_for_assign == [0, 1] and config.Model.backbone.nmb_prototypes == 0
    assert config.DataLoader.Train.sampler == {"name": "DistributedBatchSampler", "batch_size": 8, "shuffle": False,
                                               "drop_last": False}
    assert config.DataLoader.Train.dataset.transform is None
    assert config.where("Global.seed") == config.where("DistributedStrategy.data_parallel") == "default"
    assert config.where("Global.epochs") == "a.yaml:2"


def test_checking_twice_and_after_saving_changes_nothing(checked, registries, tmp_path):
    config = checked("FP16.level=O1", "DataLoader.Train.dataset.transform=[ToTensor]",
                     "Optimizer.param_groups=[{name: a}]")
    assert check(config, registries) == config
    config.save(tmp_path / "saved.yaml")
    assert check(load_config(tmp_path / "saved.yaml"), registries) == config
    assert check(config, registries).to_yaml() == config.to_yaml()


def test_the_input_is_left_alone(registries, write):
    config = load_config(write("a.yaml", SMALL))
    before = config.to_yaml()
    check(config, registries)
    assert config.to_yaml() == before


def test_all_problems_at_once_one_per_line(problems):
    text = SMALL.replace("epochs: 10", "epoch: 10\n  seed: many\n  device: tpu\n  save_interval: 0")
    assert problems("Model.backbone.type=swavresnet5", "Optimizer.lr.warmup=3",
                    text=text.replace("lr: 0.1", "lr: {name: Constant}")) == [
        "a.yaml:2: unknown key Global.epoch (did you mean 'epochs'?)",
        "a.yaml:1: missing required key Global.epochs (Length of training; schedules span it. SwAV: 100 to 800 on "
        "ImageNet, more on less data: count steps, not epochs.)",
        "a.yaml:3: Global.seed: expected int, got 'many' (str)",
        "a.yaml:5: Global.save_interval: must be at least 1, got 0",
        "a.yaml:4: Global.device: 'tpu' is not one of auto, cpu, gpu, xpu, npu",
        "-o Model.backbone.type=swavresnet5: Model.backbone.type: unknown backbone 'swavresnet5' (did you mean "
        "'swavresnet50'?); known: swavresnet50",
        "-o Optimizer.lr.warmup=3: unknown key Optimizer.lr.warmup; known: decay_unit, learning_rate",
        "a.yaml:11: missing required key Optimizer.lr.learning_rate",
    ]


def test_message_counts_the_problems():
    error = ConfigError(["a", "b"])
    assert str(error) == "2 problems in the configuration:\n  a\n  b" and str(ConfigError("a")) == "a"


@pytest.mark.parametrize("override, expected", [
    ("Globl.seed=1", "unknown key Globl (did you mean 'Global'?)"),
    ("Global.output_dir=2024/5",
     "Global.output_dir: expected str, got 404.8 (float); quote text that reads as a number"),
    ("Model.epsilom=1", "unknown key Model.epsilom (did you mean 'epsilon'?)"),
    ("Model.batch_size=1", "unknown key Model.batch_size; known: backbone, crops_for_assign, epsilon, "
                           "freeze_prototypes_niters, nmb_crops, queue_length"),
    ("Model.name=swav", "Model.name: unknown method 'swav'; known: swav_resnet50_finetune, swav_resnet50_linearprobe, "
                        "swav_resnet50_pretrain"),
    ("Model.name=7", "Model.name: expected str, got 7 (int)"),
    ("Model.epsilon=small", "Model.epsilon: expected float, got 'small' (str)"),
    ("Model.crops_for_assign=[0, x]", "Model.crops_for_assign: expected list of int, got [0, 'x'] (list)"),
    ("Model.backbone=swavresnet50", "Model.backbone: expected a mapping, got 'swavresnet50' (str)"),
    ("Model.backbone={nmb_prototypes: 3}", "Model.backbone.type: missing required key; it names the backbone"),
    ("Model.backbone.nmb_prototypes=1.5",
     "Model.backbone.nmb_prototypes: expected int or list of int, got 1.5 (float)"),
    ("Global.eval_unit=batch", "Global.eval_unit: 'batch' is not one of epoch, step"),
    ("Global.eval_unit=1", "Global.eval_unit: 1 is not one of epoch, step"),
    ("Global.flags=5", "Global.flags: expected mapping, got 5 (int)"),
    ("Global.flags={cudnn: 1}",
     "Global.flags: Paddle flags start with FLAGS_, 'cudnn' does not, got {'cudnn': 1} (mapping)"),
    ("Global.accum_steps=true", "Global.accum_steps: expected int, got True (bool)"),
    ("DistributedStrategy.sync_batch_norm=apex",
     "DistributedStrategy.sync_batch_norm: expected none, global or {group: "
     "<number of processes>}, got 'apex' (str)"),
    ("Optimizer.grad_clip={clip_norm: 1, norm: 3}", "unknown key Optimizer.grad_clip.norm (did you mean 'clip_norm'?)"),
    ("Optimizer.betas=0.9", "unknown key Optimizer.betas; known: grad_clip, lr, momentum, param_groups, weight_decay"),
    ("Optimizer.param_groups=[{lr: 1}]",
     "missing required key Optimizer.param_groups.0.name (Regular expression, matched "
     "from the start of the parameter's name in the checkpoint.)"),
    ("Optimizer.param_groups=[{name: a, wd: 1}]",
     "unknown key Optimizer.param_groups.0.wd; known: lr, momentum, name, weight_decay"),
    ("Optimizer.param_groups=head", "Optimizer.param_groups: expected a list of mappings, got 'head' (str)"),
    ("DataLoader.Train.sampler.batch_size=0", "DataLoader.Train.sampler.batch_size: must be at least 1, got 0"),
    ("DataLoader.Train.dataset.transform=Resize",
     "DataLoader.Train.dataset.transform: expected a list of components, got 'Resize' (str)"),
    ("DataLoader.Train.dataset.transform=[{Resize: {size: 3}, ToTensor: {}}]",
     "DataLoader.Train.dataset.transform.0: expected one 'Name: {arguments}', got "
     "{'Resize': {'size': 3}, 'ToTensor': {}} (mapping)"),
    ("DataLoader.Train.dataset.transform=[{Resize: 3}]",
     "DataLoader.Train.dataset.transform.0.Resize: expected a mapping of arguments, got 3 (int)"),
    ("DataLoader.Train.dataset.transform=[Resiz]",
     "DataLoader.Train.dataset.transform.0: unknown transform 'Resiz' (did you mean 'Resize'?); known: CenterCrop, "
     "Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize, ToTensor"),
    ("DataLoader.Train.dataset.transform=[Resize]",
     "missing required key DataLoader.Train.dataset.transform.0.Resize.size"),
    ("Loss.Train=[{CELoss: {wieght: 1}}]", "unknown key Loss.Train.0.CELoss.wieght (did you mean 'weight'?)"),
    ("Export.input_shape=[None, 3, x]", "Export.input_shape: expected list of int or null, got [None, 3, 'x'] (list)"),
])
def test_one_problem(problems, override, expected):
    assert problems(override) == [f"-o {override}: {expected}"]


@pytest.mark.parametrize("key, value, expected", [
    ("incr_ratio", "1", "must be above 1, or the scale never grows, got 1.0 (float)"),
    ("decr_ratio", "0", "must lie between 0 and 1, or the scale never shrinks, got 0.0 (float)"),
    ("decr_ratio", "1", "must lie between 0 and 1, or the scale never shrinks, got 1.0 (float)"),
])
def test_loss_scaling_that_does_not_adapt_is_refused(problems, key, value, expected):
    override = f"FP16.GradScaler.{key}={value}"
    assert problems("FP16.level=O1", override) == [f"-o {override}: FP16.GradScaler.{key}: {expected}"]


def test_missing_sections_and_places_of_list_items(problems):
    assert problems(text="Metric:\n  Eval:\n    - TopkAcc: {topk: [1, 5]}\n    - TopkAc:\n") == [
        "missing required key Global (The run as a whole.)",
        "missing required key Model (Method, network and their options.)",
        "a.yaml:4: Metric.Eval.1: unknown metric 'TopkAc' (did you mean 'TopkAcc'?); known: TopkAcc"]


def test_values_take_the_declared_type(checked):
    config = checked("Model.epsilon=1", "Global.validate_loop=None", "Global.collective_timeout=60",
                     "Model.nmb_crops='(2, 6)'", "Optimizer.weight_decay='1e-6'", "Global.pretrained_model='None'")
    assert (config.Model.epsilon, type(config.Model.epsilon)) == (1.0, float)
    assert "validate_loop" not in config.Global and config.Global.pretrained_model is None
    assert config.Model.nmb_crops == [2, 6] and config.Optimizer.weight_decay == 1e-6
    assert config.Global.collective_timeout == 60.0


@pytest.mark.parametrize("mode, expected",
                         [("None", "none"), ("none", "none"), ("global", "global"), ("{group: 8}", {"group": 8})])
def test_batch_norm_modes(checked, mode, expected):
    assert checked(f"DistributedStrategy.sync_batch_norm={mode}").DistributedStrategy.sync_batch_norm == expected


@pytest.mark.parametrize("override, key, reason", [
    ("Global.task_type=Classification", "Global.task_type", "Model.name decides the task"),
    ("Global.train_loop=MyLoop", "Global.train_loop", "one training loop serves every Model.name"),
    ("Global.use_dali=False", "Global.use_dali", "images are decoded by the workers of DataLoader.*.loader"),
    ("Model.apex=False", "Model.apex", "synchronised batch norm is set by DistributedStrategy.sync_batch_norm"),
    ("Optimizer.tensor_fusion=True", "Optimizer.tensor_fusion", "gradients are reduced in buckets already"),
    ("DataLoader.Train.loader.collate_fn=f", "DataLoader.Train.loader.collate_fn",
     "each dataset knows how its samples are batched"),
    ("DataLoader.Train.loader.use_shared_memory=False", "DataLoader.Train.loader.use_shared_memory",
     "workers always hand batches over in anonymous shared memory, which needs no /dev/shm"),
    ("Optimizer.lr={name: TimmCosine, learning_rate: 1, last_epoch: 0}", "Optimizer.lr.last_epoch",
     "the position follows from the step"),
])
def test_legacy_keys_warn_and_go(warned, override, key, reason):
    config, texts = warned(override)
    assert texts == [f"-o {override}: {key} has no effect: {reason}"]
    assert config.get_path(key, "gone") == "gone"


def test_fp16_without_level_is_o2_with_a_warning(warned):
    config, texts = warned("FP16.dtype=bfloat16")
    assert config.FP16.level == "O2" and len(texts) == 1
    assert texts[0].startswith("-o FP16.dtype=bfloat16: FP16 has no level; taken as O2, as PASSL does.")


def test_a_section_of_none_is_absent(checked):
    assert checked("FP16=None", "EMA=None").FP16.level == "O0"


@pytest.mark.parametrize("text", [
    "lr: {name: TimmCosine, learning_rate: 0.5, decay_unit: epoch}",
    "lr_decay_unit: epoch\n  lr: {name: TimmCosine, learning_rate: 0.5}",
    "momentum: 0.9\nLRScheduler: {name: TimmCosine, learning_rate: 0.5, decay_unit: epoch}",
])
def test_one_place_for_the_schedule(checked, text):
    config = checked(text=SMALL.replace("lr: 0.1", text))
    assert config.Optimizer.lr == {"name": "TimmCosine", "learning_rate": 0.5, "eta_min": 0.0, "warmup_epoch": 0,
                                   "warmup_start_lr": 0.0, "warmup_prefix": True, "decay_unit": "epoch"}
    assert "LRScheduler" not in config and "lr_decay_unit" not in config.Optimizer
    assert re.match(r"a\.yaml:\d+$", config.where("Optimizer.lr.learning_rate"))


def test_bare_rates_and_groups(checked):
    config = checked("Optimizer.param_groups=[{name: head, lr: 5, weight_decay: 0}]", "Optimizer.lr_decay_unit=epoch")
    assert config.Optimizer.lr == {"name": "Constant", "learning_rate": 0.1, "decay_unit": "epoch"}
    assert config.Optimizer.param_groups == [
        {"name": "head", "lr": {"name": "Constant", "learning_rate": 5.0, "decay_unit": "epoch"}, "weight_decay": 0.0}]


@pytest.mark.parametrize("text, expected", [
    ("lr: 1\nLRScheduler: {name: Constant}",
     "a.yaml:9: LRScheduler and Optimizer.lr (a.yaml:8) both set the learning rate; keep one"),
    ("lr: {name: Constant, learning_rate: 1, decay_unit: step}\n  lr_decay_unit: epoch",
     "a.yaml:9: Optimizer.lr_decay_unit contradicts decay_unit (a.yaml:8); keep one"),
])
def test_two_places_for_the_schedule(problems, text, expected):
    assert problems(text=SMALL.replace("lr: 0.1", text)) == [expected]


def test_other_spellings(checked, problems):
    config = checked("Model={name: swav_resnet50_linearprobe, backbone: {type: swavresnet50}, num_classes: 10}",
                     "DataLoader.Train.dataset.transform_ops=[{Resize: {size: 4}}, ToTensor]")
    assert config.Model.class_num == 10 and "num_classes" not in config.Model
    assert config.DataLoader.Train.dataset.transform == [{"Resize": {"size": 4}}, {"ToTensor": {}}]
    assert "transform_ops" not in config.DataLoader.Train.dataset
    few_shot = checked("DataLoader.Train.dataset={name: FewShotDataset, root: a, txt_file_name: b, "
                       "transform_ops: [ToTensor]}")
    assert few_shot.DataLoader.Train.dataset == {"name": "FewShotDataset", "transform": [{"ToTensor": {}}], "root": "a",
                                                 "txt_file_name": "b"}
    both = "DataLoader.Train.dataset={name: ImageFolder, root: a, transform: [], transform_ops: []}"
    assert problems(both) == [f"-o {both}: DataLoader.Train.dataset.transform_ops and "
                              "DataLoader.Train.dataset.transform "
                              f"(-o {both}) are the same key; keep one"]


def test_transforms_inside_transforms(checked, problems):
    path = "DataLoader.Train.dataset.transform"
    config = checked(f"{path}=[{{Compose: {{transforms: [ToTensor, {{Resize: {{size: 4}}}}]}}}}]")
    assert config.get_path(path) == [{"Compose": {"transforms": [{"ToTensor": {}}, {"Resize": {"size": 4}}]}}]
    assert problems(f"{path}=[{{Compose: {{transforms: [{{Resize: {{sise: 4, size: 4}}}}]}}}}]") == [
        f"-o {path}=[{{Compose: {{transforms: [{{Resize: {{sise: 4, size: 4}}}}]}}}}]: unknown key "
        f"{path}.0.Compose.transforms.0.Resize.sise (did you mean 'size'?)"]


def test_without_registries_component_keys_pass(write):
    config = check(load_config(write("a.yaml", SMALL), ["Model.anything=1", "Model.name=unheard_of"]), {})
    assert config.Model.anything == 1 and config.DataLoader.Train.sampler.batch_size == 8
    with pytest.raises(ConfigError, match="unknown key Global.anything"):
        check(load_config("a.yaml", ["Global.anything=1"]), {})


def test_a_registry_that_cannot_be_imported_is_left_out_with_a_warning(write, registries):
    registries["METHODS"] = Registry("method", "passl_without_paddle")
    with pytest.warns(ConfigWarning, match="passl_without_paddle cannot be imported .* the keys of every method pass"):
        assert check(load_config(write("a.yaml", SMALL), ["Model.anything=1"]), registries).Model.anything == 1


def test_defaults_that_are_no_data_stay_out_of_the_file(checked, registries):
    def custom(scale: float = 1, reduce=max, limit: int = None):
        """A metric."""

    registries["METRICS"].register("Custom")(custom)
    config = checked("Metric.Eval=[Custom]")
    assert config.Metric.to_yaml() == "Eval:\n  - Custom:\n      scale: 1.0\n      limit: null\n"
    assert check(config, registries).to_yaml() == config.to_yaml()


def test_a_config_made_in_code(registries):
    with pytest.raises(ConfigError, match="set in code: unknown key Global.epoch"):
        check(Config({"Global": {"epoch": 1}, "Model": {"name": "swav_resnet50_pretrain"}}), registries)
