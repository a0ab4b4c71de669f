"""What this machine's CPU lacks that decides which integer kernels are safe here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

WIDE = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})  # products of int8 are added in 32 bits


@cache
def overflows() -> bool:
    """Do integer kernels of x86 add pairs of 8-bit products in 16 bits here, where codes of the full range saturate?"""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False  # not Linux: nobody says
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return lacks_wide_sums(flags)


def lacks_wide_sums(flags: list[str]) -> bool:
    """The same of a CPU with these flags; one without AVX2 (ARM, or unknown) has other kernels."""
    return "avx2" in flags and not WIDE & set(flags)
