"""Pretraining runs on real JPEGs: a class tree of CIFAR-10 and a flat folder of ImageNet photographs."""
import json
import math
import shutil
from pathlib import Path

from passl.cli.train import main

CONFIGS = Path(__file__).resolve().parents[2] / "tasks/ssl/swav/configs"


def records(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def overrides(*pairs):
    return [part for pair in pairs for part in ("-o", pair)]


def test_class_tree_of_cifar(real_images, tmp_path):
    """The CPU recipe as it stands, on a hundred images of each class, with k-NN before the end."""
    for split, count in (("train", 20), ("test", 5)):
        for source in sorted((real_images / "cifar10" / split).iterdir()):
            target = tmp_path / split / source.name
            target.mkdir(parents=True)
            for image in sorted(source.iterdir())[:count]:
                shutil.copy(image, target)
    status = main(["-c", str(CONFIGS / "swav_resnet18_32_pt_cifar10_1n1c_dp_fp32_cpu.yaml"), *overrides(
        f"DataLoader.Train.dataset.root={tmp_path / 'train'}", f"DataLoader.Eval.dataset.root={tmp_path / 'test'}",
        f"Global.output_dir={tmp_path / 'output'}", "Global.epochs=2", "Global.use_visualdl=False",
        "DataLoader.Train.sampler.batch_size=50", "Model.backbone.nmb_prototypes=20")])
    assert status == 0
    folder = tmp_path / "output/swav_resnet18_pretrain"
    found = records(folder)
    losses = [record["loss"] for record in found if "loss" in record]
    assert len(losses) == 8 and all(math.log(20) / 2 < loss < 2 * math.log(20) for loss in losses)
    assert any(0 <= record.get("eval_knn20", -1) <= 1 for record in found)
    assert (folder / "first_batch.png").is_file() and (folder / "latest.pdparams").is_file()


def test_flat_folder_of_photographs(real_images, tmp_path):
    """ResNet-50 and the published crops, 2x224 + 6x96, on files without labels."""
    root = tmp_path / "photographs"
    root.mkdir()
    for image in sorted((real_images / "imagenet-sample").iterdir())[:4]:
        shutil.copy(image, root)
    status = main(["-c", str(CONFIGS / "swav_resnet50_224_pt_in1k_200ep_bs256_1n4c_dp_fp16o1.yaml"), *overrides(
        f"DataLoader.Train.dataset.root={root}", f"Global.output_dir={tmp_path / 'output'}", "Global.max_train_step=2",
        "Global.use_visualdl=False", "DataLoader.Train.sampler.batch_size=2", "DataLoader.Train.loader.num_workers=1",
        "Model.backbone.nmb_prototypes=30", "Model.queue_length=0", "Global.lr_base_batch=256", "Global.device=cpu")])
    assert status == 0
    losses = [record["loss"] for record in records(tmp_path / "output/swav_resnet50_pretrain") if "loss" in record]
    assert len(losses) == 2 and all(math.log(30) / 2 < loss < 2 * math.log(30) for loss in losses)
