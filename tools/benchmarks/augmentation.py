"""Time of the multi-crop pipeline per image on one core, decoding included, beside what one could use instead.

    python tools/benchmarks/augmentation.py /data/imagenet-sample

Contenders take turns on the same few images, many times, in processor time, so that other programs disturb little;
medians over rounds, and medians of the per-round ratios, are printed. File contents are read beforehand.
torchvision, albumentations and simplejpeg are timed when they are installed. Each has a process of its own with the
settings of a data worker, so that none disturbs another's memory. Crops are SwAV's: 2 x 224 + 6 x 96.
"""
from __future__ import annotations

import argparse
import gc
import io
import math
import multiprocessing
import random
import statistics
import time
from collections import defaultdict

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from passl.data.augment import multicrop
from passl.data.decode import decode_image
from passl.data.random_streams import stream_key
from passl.data.sources import find_image_files
from passl.data.workers import prepare_process

GROUPS = ((224, 2, (0.14, 1.0)), (96, 6, (0.05, 0.14)))
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.228, 0.224, 0.225])


def ours(data: bytes, key: int):
    return TRANSFORM(decode_image(data, reduction=TRANSFORM.reduction), stream_key(0, 0, key))


TRANSFORM = multicrop.MultiCrop(*zip(*GROUPS))


# ---- the same operations with PIL, as torchvision carries them out

def pil_box(width: int, height: int, scale) -> tuple:
    for _ in range(10):
        area = width * height * random.uniform(*scale)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    return 0, 0, height, width


def pil_resize(image: Image.Image, box, size: int) -> Image.Image:
    top, left, height, width = box
    return image.crop((left, top, left + width, top + height)).resize((size, size), Image.BILINEAR)


def pil_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = np.array(hue, dtype=np.uint8) + np.uint8(int(shift * 255) & 255)
    return Image.merge("HSV", (Image.fromarray(turned, "L"), saturation, value)).convert("RGB")


PIL_OPERATIONS = (lambda image, f: ImageEnhance.Brightness(image).enhance(f),
                  lambda image, f: ImageEnhance.Contrast(image).enhance(f),
                  lambda image, f: ImageEnhance.Color(image).enhance(f), pil_hue)


def pil_apply(image: Image.Image, plan: multicrop.CropPlan) -> Image.Image:
    crop = pil_resize(image, plan.box, plan.size)
    if plan.flip:
        crop = crop.transpose(Image.FLIP_LEFT_RIGHT)
    for operation in plan.jitter_order:
        crop = PIL_OPERATIONS[operation](crop, plan.factors[operation])
    if plan.grayscale:
        crop = crop.convert("L").convert("RGB")
    return crop.filter(ImageFilter.GaussianBlur(plan.blur_sigma)) if plan.blur_sigma else crop


def pil_pipeline(data: bytes, key: int):
    image = Image.open(io.BytesIO(data)).convert("RGB")
    crops = []
    for size, count, scale in GROUPS:
        for _ in range(count):
            factors = [random.uniform(0.2, 1.8) for _ in range(3)] + [random.uniform(-0.2, 0.2)]
            order = random.sample(range(4), 4) if random.random() < 0.8 else ()
            sigma = random.uniform(0.1, 2.0) if random.random() < 0.5 else 0.0
            crops.append(pil_apply(image, multicrop.CropPlan(size, pil_box(*image.size, scale), random.random() < 0.5,
                                                             order, factors, random.random() < 0.2, sigma)))
    return crops


def pil_with_normalisation(data: bytes, key: int):
    """As the original's workers do it: pixels leave as normalised float32, channels first."""
    return [np.ascontiguousarray(((np.asarray(crop, np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1))
            for crop in pil_pipeline(data, key)]


# ---- other libraries

def decode_opencv(data: bytes, key: int):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def simplejpeg_decoder():
    import simplejpeg

    return lambda data, key: simplejpeg.decode_jpeg(data)


def torchvision_pipeline():
    import torch
    from torchvision import transforms

    torch.set_num_threads(1)
    pipelines = [(count, transforms.Compose([
        transforms.RandomResizedCrop(size, scale=scale),
        transforms.RandomHorizontalFlip(0.5),
        transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
        transforms.RandomGrayscale(0.2),
        transforms.Lambda(lambda crop: crop.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
                          if random.random() < 0.5 else crop),
        transforms.ToTensor(),
        transforms.Normalize(MEAN.tolist(), STD.tolist()),
    ])) for size, count, scale in GROUPS]

    def run(data: bytes, key: int):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return [pipeline(image) for count, pipeline in pipelines for _ in range(count)]

    return run


def albumentations_pipeline(normalise: bool = False):
    """Its pipeline to uint8 crops; `normalise`: to normalised float32, channels first, as its pipelines usually end."""
    import albumentations

    ends = [albumentations.Normalize(MEAN.tolist(), STD.tolist())] if normalise else []
    pipelines = [(count, albumentations.Compose([
        albumentations.RandomResizedCrop(size=(size, size), scale=scale),
        albumentations.HorizontalFlip(p=0.5),
        albumentations.ColorJitter(brightness=(0.2, 1.8), contrast=(0.2, 1.8), saturation=(0.2, 1.8), hue=(-0.2, 0.2),
                                   p=0.8),
        albumentations.ToGray(p=0.2),
        albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 2.0), p=0.5),
        *ends,
    ])) for size, count, scale in GROUPS]

    def run(data: bytes, key: int):
        image = cv2.cvtColor(decode_opencv(data, key), cv2.COLOR_BGR2RGB)
        crops = [pipeline(image=image)["image"] for count, pipeline in pipelines for _ in range(count)]
        return [np.ascontiguousarray(crop.transpose(2, 0, 1)) for crop in crops] if normalise else crops

    return run


# What makes each contender, a function of an image file's bytes and a number.
CONTENDERS = {"passl": lambda: ours, "PIL, uint8": lambda: pil_pipeline,
              "PIL, normalised float32": lambda: pil_with_normalisation,
              "decode only, OpenCV": lambda: decode_opencv, "decode only, simplejpeg": simplejpeg_decoder,
              "torchvision": torchvision_pipeline, "albumentations, uint8": albumentations_pipeline,
              "albumentations, normalised": lambda: albumentations_pipeline(normalise=True)}


# ---- measurement

def serve(connection, build, files: list) -> None:
    """A contender's process: says None or what is missing, then answers a round's number with its ms per image."""
    prepare_process()
    try:
        contender = build()
    except ImportError as missing:
        connection.send(str(missing))
        return
    for key, data in enumerate(files[:5]):
        contender(data, key)
    gc.freeze()  # as data workers do
    connection.send(None)
    while True:
        number = connection.recv()
        start = time.process_time()
        for position, data in enumerate(files):
            contender(data, number * len(files) + position)
        connection.send(1000 * (time.process_time() - start) / len(files))


def race(files: list, rounds: int) -> dict:
    """Milliseconds per image of every contender in every round; in a round they follow each other in random order."""
    connections = {}
    for name, build in CONTENDERS.items():
        connection, other = multiprocessing.Pipe()
        multiprocessing.get_context("fork").Process(target=serve, args=(other, build, files), daemon=True).start()
        missing = connection.recv()
        if missing:
            print(f"left out: {name} ({missing})")
        else:
            connections[name] = connection
    milliseconds = {name: [] for name in connections}
    for number in range(rounds):
        for name in random.sample(list(connections), len(connections)):
            connections[name].send(number)
            milliseconds[name].append(connections[name].recv())
    return milliseconds


def stages(files: list) -> dict:
    """Where our time goes: milliseconds per image in each stage, by wrapping the functions that do them."""
    spent = defaultdict(float)

    def timed(name, function):
        def run(*arguments):
            start = time.process_time()
            result = function(*arguments)
            spent[name] += time.process_time() - start
            return result
        return run

    wrapped = {"draws and boxes": (multicrop.MultiCrop, "plans"), "colour": (multicrop, "jitter"),
               "crop and resize": (multicrop, "cut_out"), "blur and smoothing": (multicrop, "gaussian_blur")}
    originals = {stage: getattr(*place) for stage, place in wrapped.items()}
    for stage, place in wrapped.items():
        setattr(*place, timed(stage, originals[stage]))
    start = time.process_time()
    for key, data in enumerate(files):
        image = timed("decode", decode_image)(data, "image", TRANSFORM.reduction)
        TRANSFORM(image, stream_key(0, 0, key))
    total = time.process_time() - start
    for stage, place in wrapped.items():
        setattr(*place, originals[stage])
    spent["flip and the rest"] = total - sum(spent.values())
    return {name: 1000 * seconds / len(files) for name, seconds in spent.items()}


def differences(files: list) -> dict:
    """Absolute differences to PIL in grey levels: (mean over images, largest image mean) per operation."""
    found = defaultdict(list)
    for key, data in enumerate(files):
        image = decode_image(data)
        picture = Image.fromarray(image)
        found["decoding"].append(np.abs(image - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)).mean())
        for plan in TRANSFORM.plans(*image.shape[:2], stream_key(0, 0, key)):
            plain = plan._replace(flip=False, jitter_order=(), grayscale=False, blur_sigma=0.0)
            base = Image.fromarray(np.asarray(pil_resize(picture, plan.box, plan.size)))
            whole = plain._replace(box=(0, 0, plan.size, plan.size))
            cases = {"crop and resize": (picture, plain), "everything together": (picture, plan),
                     "grayscale": (base, whole._replace(grayscale=True)),
                     "colour jitter": (base, whole._replace(jitter_order=plan.jitter_order))}
            if plan.blur_sigma:
                cases["blur"] = (base, whole._replace(blur_sigma=plan.blur_sigma))
            for name, (source, case) in cases.items():
                result = TRANSFORM.apply(np.asarray(source), case)
                found[name].append(np.abs(result - np.asarray(pil_apply(source, case), int)).mean())
    return {name: (np.mean(values), np.max(values)) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("root", help="folder of photographs, for instance a sample of ImageNet")
    parser.add_argument("--images", type=int, default=30, help="images per round (evenly spaced in the folder)")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    prepare_process()
    random.seed(0)
    samples = find_image_files(arguments.root, labelled=False)
    step = max(1, len(samples) // arguments.images)
    paths = [samples.path(index) for index in range(0, len(samples), step)][:arguments.images]
    files = [open(path, "rb").read() for path in paths]
    times = race(files, arguments.rounds)
    print(f"\n{len(files)} images, {arguments.rounds} rounds, OpenCV {cv2.__version__}, one core, decoding included\n")
    print(f"{'':28}{'ms/image':>10}{'images/s':>10}{'time / passl':>14}")
    for name in sorted(times, key=lambda name: statistics.median(times[name])):
        ratio = statistics.median(other / own for other, own in zip(times[name], times["passl"]))
        median = statistics.median(times[name])
        print(f"{name:28}{median:>10.2f}{1000 / median:>10.0f}{ratio:>14.2f}")
    whole = statistics.median(own / decoding for own, decoding in zip(times["passl"], times["decode only, OpenCV"]))
    print(f"\npassl takes {whole:.2f} times as long as OpenCV's decoding alone")
    print("\nStages of passl, ms/image")
    rows = [stages(files) for _ in range(arguments.rounds)]
    for name in rows[0]:
        print(f"{name:28}{statistics.median(row[name] for row in rows):>10.2f}")
    print("\nAbsolute difference to PIL, grey levels of 255: mean over crops, largest mean of one crop")
    for name, (mean, largest) in differences(files).items():
        print(f"{name:28}{mean:>10.2f}{largest:>10.2f}")


if __name__ == "__main__":
    main()
