"""Boards as data: core, flash and RAM in bytes as the vendor's datasheet gives them.

Checked against the devicetrees of the Zephyr project (zephyrproject-rtos/zephyr), whose file each row names. RAM is the
largest piece without a gap: an arena is one piece.
"""

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
    checked: str


def _board(core: str, flash_kib: int, ram_kib: int, source: str, checked: str) -> Board:
    return Board(core, flash_kib * KIB, ram_kib * KIB, source, checked)


BOARDS: dict[str, Board] = {
    "nucleo-l4r5zi": _board(
        "cortex-m4",
        2048,
        640,
        "STM32L4R5ZI, datasheet DS12023; MLPerf Tiny's reference",
        "dts/arm/st/l4/stm32l4r5.dtsi",
    ),
    "nucleo-h7a3zi-q": _board(
        "cortex-m7", 2048, 1024, "STM32H7A3ZI, datasheet DS13195; in MLPerf Tiny", "dts/arm/st/h7/stm32h7a3.dtsi"
    ),
    "nucleo-u575zi-q": _board(
        "cortex-m33", 2048, 768, "STM32U575ZI, datasheet DS13737; in MLPerf Tiny", "boards/st/nucleo_u575zi_q"
    ),
    "nucleo-f401re": _board("cortex-m4", 512, 96, "STM32F401RE, datasheet DS10086", "boards/st/nucleo_f401re"),
    "nucleo-f103rb": _board("cortex-m3", 128, 20, "STM32F103RB, datasheet DS5319", "boards/st/nucleo_f103rb"),
    "disco-f746ng": _board("cortex-m7", 1024, 320, "STM32F746NG, datasheet DS10916", "boards/st/stm32f746g_disco"),
    "arduino-nano-33-ble": _board(
        "cortex-m4", 1024, 256, "nRF52840, product specification", "dts/arm/nordic/nrf52840_qiaa.dtsi"
    ),
    "microbit-v2": _board(
        "cortex-m4", 512, 128, "nRF52833, product specification", "dts/arm/nordic/nrf52833_qiaa.dtsi"
    ),
    "raspberry-pi-pico": _board("cortex-m0plus", 2048, 264, "RP2040, datasheet", "boards/raspberrypi/rpi_pico"),
    "raspberry-pi-pico-2": _board("cortex-m33", 4096, 520, "RP2350, datasheet", "boards/raspberrypi/rpi_pico2"),
}
