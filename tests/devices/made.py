"""Stand-in devices that take minutes to make: made once, kept outside of the tree under the digest of their recipe."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from filelock import FileLock

MAKE = Path(__file__).parent / "make"
ADBD = ("adbd.sh", "adbd_build.sh")
ARM64 = ("arm64.sh",)
BOARD = ("board.sh", "board_init.sh", "arm64.sh")


def cache() -> Path:
    base = os.environ.get("DEPLOY_TEST_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-deploy-tests"


def made(name: str, scripts: tuple[str, ...]) -> Path:
    """The folder that the first of the scripts makes (its only argument). Raises RuntimeError with its last words."""
    digest = hashlib.sha256(b"".join((MAKE / script).read_bytes() for script in scripts)).hexdigest()[:16]
    folder = cache() / f"{name}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            aside = folder.with_name(f".{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            done = subprocess.run(["sh", MAKE / scripts[0], aside], capture_output=True, text=True, check=False)
            if done.returncode:
                words = (done.stderr or done.stdout).strip().splitlines()[-1:]
                raise RuntimeError(f"{scripts[0]} ended with {done.returncode}: {' '.join(words)}")
            aside.rename(folder)
    return folder


def adbd_lacks() -> str | None:
    """Why adbd cannot be built here, or None."""
    if shutil.which("adb") is None:
        return "no adb client here: make test-devices brings it"
    if not any(cache().glob("adbd-*")) and (shutil.which("quilt") is None or not Path("/usr/include/android").is_dir()):
        return "no tools to build adbd here: make test-devices brings them"
    return None


def arm64_lacks() -> str | None:
    """Why an arm64 system cannot run here, or None; lets the kernel start its programs where it may."""
    if os.geteuid() != 0:
        return "an arm64 root needs root here (mount, chroot, binfmt_misc)"
    if not Path("/usr/bin/qemu-aarch64-static").is_file() or shutil.which("debootstrap") is None:
        return "no qemu-user or debootstrap here: make test-devices brings them"
    done = subprocess.run(["sh", MAKE / "binfmt.sh"], capture_output=True, text=True, check=False)
    return f"binfmt_misc is not to be had: {done.stderr.strip()}" if done.returncode else None


def board_lacks() -> str | None:
    """Why a whole ARM board cannot be emulated here, or None."""
    if os.geteuid() != 0:
        return "an arm64 root needs root here (the owners of its files)"
    lacking = [name for name in ("qemu-system-aarch64", "debootstrap", "cpio") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)} here: make test-board brings them" if lacking else None
