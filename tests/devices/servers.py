"""Real servers on this machine's loopback: OpenSSH's sshd, AOSP's adbd, an emulated board, a cable that can be cut."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

MAKE = Path(__file__).parent / "make"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_port(port: int, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"nothing listens on port {port}; the server's exit code is {process.poll()}")


def keygen(file: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True)


def below(root: Path) -> list[str]:
    """A command prefix that starts a program in `root`, with a /proc and a /dev that go with it."""
    script = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(root)]


def ssh_configuration(folder: Path, root: Path | None, address: str, environment: dict[str, str]) -> Path:
    """A host's and a user's key in `folder`, and an sshd_config that takes no other, there or where a whole system
    below `root` has it. Returns the folder that the server sees.
    """
    for name in ("host", "user"):
        keygen(folder / name)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "authorized").chmod(0o600)
    inside = Path("/etc/edge-deploy-test") if root else folder
    lines = [
        f"ListenAddress {address}",
        f"HostKey {inside}/host",
        f"AuthorizedKeysFile {inside}/authorized",
        "StrictModes no",
        "UsePAM no",
        "UseDNS no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "MaxStartups 100",
        "ClientAliveInterval 2",
        "ClientAliveCountMax 2",
        f"PidFile {inside}/pid",
        *([f"SetEnv {' '.join(f'{key}={value}' for key, value in environment.items())}"] if environment else []),
    ]
    there = Path(f"{root}{inside}") if root else folder
    if root:
        shutil.rmtree(there, ignore_errors=True)
        there.mkdir(parents=True)
        for name in ("host", "authorized"):
            shutil.copy(folder / name, there / name)
            (there / name).chmod(0o600)
    (there / "sshd_config").write_text("\n".join(lines) + "\n")
    return inside


class Sshd:
    """OpenSSH's own server with a configuration, a host key and a user key of its own; below `root`, a whole system.

    `environment` is what its sessions start with, in addition.
    """

    def __init__(self, folder: Path, root: Path | None = None, environment: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self.process = folder, free_port(), None
        self.root = root
        inside = ssh_configuration(folder, root, f"127.0.0.1:{self.port}", environment or {})
        self._command = [*(below(root) if root else []), "/usr/sbin/sshd", "-D", "-e", "-f", f"{inside}/sshd_config"]
        self.trust((folder / "host.pub").read_text())
        self.start()

    @property
    def uri(self) -> str:
        return f"ssh://{os.environ.get('USER', 'root')}@127.0.0.1:{self.port}"

    def trust(self, host_key: str, port: int | None = None) -> None:
        """What the client's configuration knows of the server's key."""
        (self.folder / "known").write_text(f"[127.0.0.1]:{port or self.port} {host_key}" if host_key else "")
        (self.folder / "config").write_text(
            f"IdentityFile {self.folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {self.folder}/known\n"
            "GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\n"
        )

    def start(self) -> None:
        if self.root is None and os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        await_port(self.port, self.process)

    def kill(self) -> None:
        """The server and all its connections at once, as when the power goes."""
        for process in (*children(self.process.pid), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, 9)
        self.process.wait()


def children(parent: int) -> list[int]:
    """The sshd processes below a server (not the sessions' own jobs: those see a broken connection)."""
    found = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(parent)], capture_output=True, text=True)
    rows = [line.split(None, 1) for line in found.stdout.splitlines()]
    own = [int(pid) for pid, name in rows if "sshd" in name or "qemu" in name]
    return [deeper for pid in own for deeper in children(pid)] + own


class Board(Sshd):
    """A whole ARM board, emulated: a kernel of its own, the root in its memory, its sshd behind a port of loopback.

    `made` is what make/board.sh made. It has no way to any network.
    """

    def __init__(self, folder: Path, made: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self.process, self.root = folder, free_port(), None, folder / "own"
        ssh_configuration(folder, self.root, "0.0.0.0:22", {})
        self.trust((folder / "host.pub").read_text())
        with (folder / "initrd").open("wb") as initrd:  # the kernel unpacks one archive over the other
            initrd.write((made / "root.cpio").read_bytes())
            files = "\n".join(str(path.relative_to(self.root)) for path in sorted(self.root.rglob("*")))
            pack = ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"]
            subprocess.run(pack, cwd=self.root, input=files.encode(), stdout=initrd, check=True)
        network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        self._command = [
            "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "3072", "-kernel",
            str(made / "kernel"), "-initrd", str(folder / "initrd"), "-append", "console=ttyAMA0 quiet panic=-1",
            "-no-reboot", "-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile=", "-display", "none",
            "-serial", "stdio", "-monitor", "none",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Until its sshd says its name: qemu's own port is open from the beginning."""
        super().start()
        end = time.monotonic() + 300
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                if probe.recv(4) == b"SSH-":
                    return
            time.sleep(1)
        raise RuntimeError(f"the board does not come up: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """As when the power goes."""
        self.process.kill()
        self.process.wait()


class Adbd:
    """AOSP's adb daemon, from Debian's source; its shell and files are those of this machine, or of `root`.

    It listens on loopback only. Not Android: a shell, coreutils and toybox differ.
    """

    def __init__(self, program: Path, folder: Path, root: Path | None = None) -> None:
        self.port, self._folder, self.process, self.program = free_port(), folder, None, program
        folder.mkdir(parents=True, exist_ok=True)
        if root is not None:
            shutil.copytree(program.parent, root / "opt/adbd", dirs_exist_ok=True)
        there = Path("/opt/adbd") if root else program.parent
        loader = ["/opt/adbd/ld-linux-x86-64.so.2", "--library-path", "/opt/adbd"] if root else []
        self._command = [*(below(root) if root else []), *loader, str(there / program.name)]
        self.start()

    @property
    def uri(self) -> str:
        return f"adb://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "ADBD_PORT": str(self.port)},
                start_new_session=True,
            )
        await_port(self.port, self.process)

    def kill(self) -> None:
        """As when the power goes."""
        self.process.kill()
        self.process.wait()


LARGE = 16384  # bytes


def flipped(data: bytes) -> bytes:
    """One bit falls over."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def severed(data: bytes) -> bytes:
    """The connection ends here."""
    raise OSError


class Cable:
    """A TCP connection to `port` that goes through here: `cut` ends it, while `frozen` is set nothing passes.

    `harm["push"]` and `harm["pull"]` are done once, to a piece of a file (nothing else comes in pieces so large) on its
    way there or back.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self.harm: dict[str, Callable[[bytes], bytes]] = {}
        self.frozen = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        with selectors.DefaultSelector() as ready, contextlib.suppress(OSError):
            for end in other:
                ready.register(end, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select(0.2):
                    if self.frozen.is_set():
                        time.sleep(0.1)
                        continue
                    data = key.fileobj.recv(65536)
                    if not data:
                        raise OSError
                    way = "push" if key.fileobj is near else "pull"
                    if way in self.harm and len(data) > LARGE:
                        data = self.harm.pop(way)(data)
                    other[key.fileobj].sendall(data)
        for end in other:
            end.close()

    def cut(self) -> None:
        """Every connection at once."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def close(self) -> None:
        self.frozen.clear()
        self._listener.close()
        self.cut()
