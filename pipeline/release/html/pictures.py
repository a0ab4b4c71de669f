"""One input sample as a picture, where it can be drawn: an image, traces over time, or sound as a spectrogram."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipeline.release.html.svg import chart, element, line, path

Array = npt.NDArray[Any]

SOUND_FROM = 2000  # samples over time: fewer are drawn as a trace
MOST_TRACES = 12
WIDTH, HEIGHT = 160.0, 96.0
POINTS = 160  # of a trace: as many as can be told apart
# Viridis (van der Walt and Smith, CC0) at nine places: reads in grey and for the colour-blind
SHADES = (
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
    (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip


def draw(sample: Array) -> Markup | None:
    """A picture of one sample without its batch axis; None where its shape tells no way to draw it.

    [h, w], [1 or 3, h, w] and [h, w, 1 or 3] are images, [c, t] with up to 12 channels and [t] traces, or with 2,000
    samples and more sound.
    """
    if sample.dtype.kind not in "fiub" or not np.isfinite(sample).all():
        return None
    if sample.ndim == 3 and sample.shape[0] in (1, 3) and min(sample.shape[1:]) >= 4:
        return _image(np.moveaxis(sample, 0, 2))
    if sample.ndim == 3 and sample.shape[2] in (1, 3) and min(sample.shape[:2]) >= 4:
        return _image(sample)
    if sample.ndim == 1 and sample.dtype.kind == "f":
        sample = sample[None]
    if sample.ndim != 2 or sample.shape[1] < 8 or sample.dtype.kind != "f":
        return None
    if sample.shape[1] >= SOUND_FROM and sample.shape[0] <= 2:
        return _picture(_colours(_spectrogram(sample[0])), "Spectrogram: time to the right, frequency upwards")
    if sample.shape[0] <= MOST_TRACES:
        return _traces(sample)
    return _image(sample[:, :, None])


def png(pixels: Array) -> bytes:
    """An 8-bit PNG of uint8 [h, w, 1 or 3] (ISO/IEC 15948: signature, IHDR, one IDAT, IEND; no filters)."""
    height, width, channels = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * channels)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _image(values: Array) -> Markup:
    """Stretched to its own darkest and brightest value: what normalisation did is undone for the eye."""
    step = max(1, max(values.shape[:2]) // 160)
    values = values[::step, ::step].astype(np.float64)
    low, high = values.min(), values.max()
    grey = (values - low) / (high - low if high > low else 1.0)
    return _picture((255 * grey).round().astype(np.uint8), "The sample as an image")


def _picture(pixels: Array, label: str) -> Markup:
    source = "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
    return Markup('<img class="pixels" alt="{}" src="{}">').format(label, source)


def _traces(sample: Array) -> Markup:
    """Each channel about its own mean on one common scale, one above the other."""
    lane = HEIGHT / len(sample)
    reach = float(np.abs(sample - sample.mean(axis=1, keepdims=True)).max()) or 1.0
    at = np.unique(np.linspace(0, sample.shape[1] - 1, POINTS).round().astype(int))
    parts = []
    for index, channel in enumerate(sample):
        middle = lane * (index + 0.5)
        heights = middle - (channel[at] - channel.mean()) / reach * lane * 0.95
        points = zip((at / (sample.shape[1] - 1) * WIDTH).tolist(), heights.tolist(), strict=True)
        parts += [line(0, middle, WIDTH, middle, class_="grid"), path(points, class_="trace")]
    return element("div", chart(WIDTH, HEIGHT, f"The sample's {len(sample)} channels over time", parts), class_="trace")


def _spectrogram(signal: Array, bands: int = 64, frames: int = 120) -> Array:
    """Power in dB over 80 dB, [bands, frames] in 0..1, from Hann windows; the lowest frequency last."""
    size = max(64, 1 << int(np.log2(max(64, len(signal) // 60))))
    starts = np.linspace(0, len(signal) - size, min(frames, max(2, len(signal) // (size // 4)))).astype(int)
    windows = np.stack([signal[s : s + size] for s in starts]) * np.hanning(size)
    power = np.abs(np.fft.rfft(windows, axis=1))[:, 1:] ** 2
    grouped = power.reshape(len(starts), -1, max(1, power.shape[1] // bands)).mean(axis=2)
    decibels = 10 * np.log10(grouped + 1e-12)
    return np.asarray(np.clip((decibels - decibels.max()) / 80 + 1, 0, 1).T[::-1])


def _colours(shares: Array) -> Array:
    """0..1 [h, w] as uint8 [h, w, 3]."""
    places = np.linspace(0, 1, len(SHADES))
    channels = [np.interp(shares, places, [shade[i] for shade in SHADES]) for i in range(3)]
    return np.stack(channels, axis=2).round().astype(np.uint8)
