"""Boards as data: core, flash and RAM in bytes as the vendor's datasheet gives them."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Board:
    """`flash_bytes` and `ram_bytes` are what the chip has; firmware around the model takes its part of both."""

    core: str
    flash_bytes: int
    ram_bytes: int
    source: str


BOARDS: dict[str, Board] = {
    "nucleo-l4r5zi": Board("cortex-m4", 2048 * KIB, 640 * KIB, "STM32L4R5ZI, datasheet DS12023; MLPerf Tiny"),
    "nucleo-f401re": Board("cortex-m4", 512 * KIB, 96 * KIB, "STM32F401RE, datasheet DS10086"),
    "nucleo-f103rb": Board("cortex-m3", 128 * KIB, 20 * KIB, "STM32F103RB, datasheet DS5319"),
    "disco-f746ng": Board("cortex-m7", 1024 * KIB, 320 * KIB, "STM32F746NG, datasheet DS10916"),
    "arduino-nano-33-ble": Board("cortex-m4", 1024 * KIB, 256 * KIB, "nRF52840, product specification"),
    "microbit-v2": Board("cortex-m4", 512 * KIB, 128 * KIB, "nRF52833, product specification"),
}
