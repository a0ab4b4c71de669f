"""A device at the end of a channel: what a request needs goes there by content, the agent runs, its result comes back.

On the device everything of ours lies in one folder: `cache/DIGEST/` (the agent, models, inputs: pushed once),
`runs/ID/` (one request, removed after it), `runtime/ADAPTER/` (what `deploy provision` brought) and `lock`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from targets import agent as agent_file
from targets.base import TargetError, model_files
from targets.channels import answer, stream
from targets.channels.base import Channel, ChannelError, Completed, Interrupted, Listen, folder_full, raise_error, run

AGENT = Path(agent_file.__file__)
LIMIT_S = 3600.0  # what a request may take where its caller does not say
WAITS_S = (1.0, 4.0)  # before the second and the third try, where a fault may pass
LEASE_S = 30  # a job there ends when it has heard nothing of us for so long
SILENCE_S = 15.0  # then the device is asked whether it lives
SPARE_BYTES = 16 << 20  # what a request may write there beyond what is pushed

T = TypeVar("T")


class RemoteDevice:
    """A Device over a channel."""

    def __init__(self, channel: Channel) -> None:
        self.uri, self.channel = channel.uri, channel
        self._placed: set[str] = set()  # folders there that this process has seen: ten processes time the same files

    def run(
        self, request: Mapping[str, Any], folder: Path, timeout_s: float | None = None, listen: Listen | None = None
    ) -> dict[str, Any]:
        """See Device. A fault of the way there is tried again twice, after the job there was ended."""
        return retried(lambda: self._run(request, folder, timeout_s or LIMIT_S, listen))

    def identity(self) -> Mapping[str, Any]:
        """See Device."""
        return stream.identity(self.facts())

    def facts(self) -> dict[str, Any]:
        """What the agent says of the device and of the runtimes there."""
        return self._facts

    @cached_property
    def _facts(self) -> dict[str, Any]:
        import tempfile

        survey = {"protocol": agent_file.PROTOCOL, "models": [], "tasks": [{"do": "survey"}], "result": "result.json"}
        with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
            result = self.run(survey, Path(folder), timeout_s=300)
        return {**result["device"], **result["tasks"][0]}

    @cached_property
    def home(self) -> str:
        """Our folder there, absolute; made when first asked for."""
        there = quote(self.channel.folder)
        made = self.shell(f"mkdir -p {there}/cache {there}/runs && cd {there} && pwd")
        if made.code:
            raise self._refused(made, f"cannot make the folder {self.channel.folder}")
        return made.output.strip()

    @cached_property
    def python(self) -> str:
        """The Python there, once it has shown that it runs."""
        name = self.channel.python
        told = self.shell(f"{quote(name)} -c 'import sys; sys.exit(sys.version_info < (3, 9))'")
        words = told.errors.strip().splitlines()[-1:] or [f"code {told.code}"]
        if told.code:
            event, remedy = REFUSALS.get(told.code, ("{python} there does not run: {words}", GET_PYTHON))
            raise ChannelError(self.uri, event.format(python=name, words=words[0]), remedy)
        return name

    def shell(self, script: str, timeout_s: float = 60) -> Completed:
        """A script on the device, whatever its exit code. Raises ChannelError for the way there."""
        return run(self.channel, script, timeout_s)

    def place(self, files: Sequence[Path]) -> str:
        """The folder there that holds exactly these files; pushed unless it is there. Each push is proved by digest,
        and so is what lay there before this process came.
        """
        digests = {file.name: agent_file.file_sha256(file) for file in files}
        body = json.dumps(digests, sort_keys=True).encode()
        folder = f"{self.home}/cache/{hashlib.sha256(body).hexdigest()}"
        if folder in self._placed or self._holds(folder, digests):
            self._placed.add(folder)
            return folder
        self.room_for(sum(file.stat().st_size for file in files))
        aside = f"{folder}.{secrets.token_hex(4)}"
        self.checked(f"mkdir {quote(aside)}")
        try:
            for file in files:
                self.push(file, f"{aside}/{file.name}", digests[file.name])
            self.checked(f"mv {quote(aside)} {quote(folder)} 2>/dev/null || test -d {quote(folder)}")
        finally:
            self.forget(aside)
        return folder

    def _holds(self, folder: str, digests: Mapping[str, str]) -> bool:
        """Does a folder there hold these files and no others? One that holds anything else is removed."""
        told = self.shell(f"cd {quote(folder)} 2>/dev/null || exit 9; touch .used; sha256sum -- *", timeout_s=600)
        if told.code == 9:
            return False
        found = {name: digest for digest, _, name in (line.partition("  ") for line in told.output.splitlines())}
        if told.code == 0 and found == digests:
            return True
        self.forget(folder)
        return False

    def push(self, file: Path, to: str, sha256: str) -> None:
        """One file, proved by its digest there."""
        self.channel.push(file, to)
        told = self.shell(f"sha256sum < {quote(to)}", timeout_s=600)
        if told.code:
            raise self._refused(told, f"cannot read {to} back")
        self._prove(told, file.name, sha256)

    def _prove(self, told: Completed, name: str, sha256: str) -> None:
        if told.output.split()[:1] != [sha256]:
            raise ChannelError(self.uri, f"{name} arrived damaged", "sent again; else check the cable", True)

    def _open(self, work: str, request: Mapping[str, Any]) -> None:
        """A folder for one run with its request, by one command: each costs a login's time."""
        body = (json.dumps(request, indent=1) + "\n").encode()
        file = quote(f"{work}/request.json")
        told = run(self.channel, f"mkdir {quote(work)} && cat > {file} && sha256sum < {file}", stdin=body)
        if told.code:
            raise self._refused(told, f"cannot write {work}")
        self._prove(told, "the request", hashlib.sha256(body).hexdigest())

    def room_for(self, size_bytes: int) -> None:
        """Raises ChannelError when the folder's file system cannot hold so much and what a run writes."""
        told = self.shell(f"df -Pk {quote(self.home)}")
        fields = told.output.splitlines()[-1].split() if told.output.strip() else []
        if told.code == 0 and len(fields) >= 4 and fields[3].isdigit():
            free = int(fields[3]) * 1024
            if free < size_bytes + SPARE_BYTES:
                need = (size_bytes + SPARE_BYTES) >> 20
                raise ChannelError(
                    self.uri,
                    f"{free >> 20} MiB free below {self.home}, {need} MiB needed",
                    "free some there, or name another folder with '?folder='",
                )

    def look_again(self) -> dict[str, Any]:
        """The facts, asked anew."""
        self.look_anew()
        return self.facts()

    def look_anew(self) -> None:
        """Forget what is known of the device."""
        self._placed.clear()
        for name in ("_facts", "home", "python"):
            self.__dict__.pop(name, None)

    def checked(self, script: str, timeout_s: float = 60) -> str:
        """Output of a script that must succeed."""
        told = self.shell(script, timeout_s)
        if told.code:
            raise self._refused(told, f"'{script.split()[0]}' failed")
        return told.output

    def forget(self, path: str) -> None:
        """Remove something of ours there, if the device still answers."""
        try:
            self.shell(f"rm -rf {quote(path)}", timeout_s=30)
        except ChannelError:
            return

    def _run(self, request: Mapping[str, Any], folder: Path, limit_s: float, listen: Listen | None) -> dict[str, Any]:
        work = f"{self.home}/runs/{secrets.token_hex(8)}"
        there = self._translate(request, folder)
        agent, python = self.place([AGENT]), self.python
        try:
            self._open(work, there)
            runs = f'{quote(python)} -X utf8 {quote(f"{agent}/{AGENT.name}")} "$d"/request.json'
            own = f"PYTHONPATH={self._path(there)} PYTHONDONTWRITEBYTECODE=1"
            said = self.job(work, runs, limit_s, listen, own)
            if said.done is None and said.interrupted:
                raise KeyboardInterrupt
            if said.done is None:
                raise self._died(said, limit_s)
            return self._fetch(request, said, work, folder)
        except (ChannelError, TargetError):
            self._placed.clear()  # it may be another device's disk by now
            raise
        finally:
            self.forget(work)

    def _translate(self, request: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The request in the device's own paths, with all that it names in place there."""
        models = []
        for row in request["models"]:
            path = folder / row["path"]
            runtime = row["runtime"]
            if runtime.endswith(".py"):
                runtime = f"{self.place([folder / runtime])}/{Path(runtime).name}"
            models.append({**row, "runtime": runtime, "path": f"{self.place(model_files(path))}/{path.name}"})
        tasks = []
        for task in request["tasks"]:
            inputs = {}
            if task.get("inputs") is not None:
                inputs["inputs"] = self.place(sorted((folder / task["inputs"]).glob("*.npy")))
            tasks.append({**task, **inputs, **{key: Path(task[key]).name for key in WRITES if key in task}})
        return {**request, "models": models, "tasks": tasks, "lock": f"{self.home}/lock"}

    def _path(self, request: Mapping[str, Any]) -> str:
        """What is first on the agent's path, as a word of the shell: what was provisioned for the request's runtimes,
        all of it where the request names none."""
        own = {row["runtime"] for row in request["models"] if not row["runtime"].endswith(".py")}
        if own:
            return quote(":".join(f"{self.home}/runtime/{name}" for name in sorted(own)))
        return f"\"$(printf '%s:' {quote(self.home)}/runtime/*)\""

    def job(
        self, work: str, runs: str, limit_s: float, listen: Listen | None = None, environment: str = ""
    ) -> stream.Said:
        """Run a command there whose words name a file of the folder `work`, which it knows as "$d".

        It is ended with us, whatever happens: by its pipe, by the time limit, and LEASE_S after the last that the
        device heard of us, for a silent link closes no pipe. The shell watches: the command itself may hang.
        """
        command = (
            f'd={quote(work)}; exec 3<&0; {{ while [ "$(timeout {LEASE_S} head -c 1)" ]; do :; done; exec <&-; '
            f'[ -e "$d"/ended ] || {{ {_kill(work, "TERM")}; sleep 5; {_kill(work, "KILL")}; }}; '
            f"}} <&3 3<&- >/dev/null 2>&1 & "
            f"{environment} timeout -k 10 {limit_s:.0f} {runs} </dev/null 3<&-; "
            f"code=$?; {{ true >\"$d\"/ended; }} 2>/dev/null; printf '\\n%s%s\\n' {quote(stream.ENDED)} $code"
        )
        process = self.channel.start(command)
        began = time.monotonic()

        def still_there() -> None:
            self.shell("true", timeout_s=10)
            still_time()

        def still_time() -> None:
            if time.monotonic() - began > limit_s + 30:
                raise ChannelError(self.uri, f"the job did not end in {limit_s:.0f} s", "see what the device is doing")

        clean = False
        try:
            said = stream.follow(process, listen, SILENCE_S, still_there, lambda: self.signal(work, "INT"), still_time)
            clean = said.ended
        finally:
            stream.end(process)
            if not clean:
                self.stop(work)
        return said

    def signal(self, work: str, name: str) -> None:
        """To every process there that works on this run (a pid might be another's by now)."""
        self.shell(_kill(work, name), timeout_s=20)

    def stop(self, work: str) -> None:
        """End the run's job, if the device still answers: else it ends itself, see `job`."""
        for _ in WAITS_S:
            try:
                self.signal(work, "TERM")
                self.signal(work, "KILL")
            except ChannelError:
                time.sleep(1)
            else:
                return

    def broken(self, said: stream.Said, limit_s: float) -> ChannelError | None:
        """What it means where a job did not come to an end of its own."""
        if not said.ended:
            return self.channel.fault(said.errors)
        if said.code == TIMED_OUT:
            return ChannelError(self.uri, f"the job did not end in {limit_s:.0f} s and was ended", "a smaller job")
        return None

    def _died(self, said: stream.Said, limit_s: float) -> Exception:
        """What it means that the agent ended without DONE."""
        if fault := self.broken(said, limit_s):
            return fault
        for code, sign, event, remedy in DEATHS:
            if said.code == code and sign in said.errors:
                return ChannelError(self.uri, event, remedy)
        return TargetError(f"{self.uri}: the agent ended with code {said.code}: {said.last_words}")

    def _fetch(self, request: Mapping[str, Any], said: stream.Said, work: str, folder: Path) -> dict[str, Any]:
        """The result and the files that its tasks wrote, each proved by its digest."""
        result = folder / request["result"]
        self._pull(f"{work}/{request['result']}", result, said.done, answer.MOST_JSON_BYTES)
        record = answer.read(answer.content(result, self.uri), request, self.uri)
        if record["error"] is not None:
            brings = f"deploy provision {self.uri} --target NAME"
            raise_error(record["error"], self.uri, self.home, brings)
        for task in request["tasks"]:
            for name in (Path(task[key]).name for key in WRITES if key in task):
                if name in record["files"]:
                    to = folder / next(task[k] for k in WRITES if k in task)
                    self._pull(f"{work}/{name}", to, record["files"][name], answer.MOST_FILE_BYTES)
        answer.check_files(record, request, folder, self.uri)
        record["device"]["uri"] = self.uri
        if said.interrupted:
            raise Interrupted(record)
        return record

    def _pull(self, file: str, to: Path, sha256: str | None, most_bytes: int) -> None:
        aside = to.with_name(f"{to.name}.part")
        self.channel.pull(file, aside, most_bytes)
        if not aside.is_file() or agent_file.file_sha256(aside) != sha256:
            aside.unlink(missing_ok=True)
            raise ChannelError(self.uri, f"{to.name} came back damaged", "fetched again; else check the cable", True)
        aside.replace(to)

    def _refused(self, told: Completed, what: str) -> ChannelError:
        if "No space left" in told.errors:
            return folder_full(self.uri, self.channel.folder)
        words = told.errors.strip().splitlines()[-1:] or [f"code {told.code}"]
        return ChannelError(
            self.uri, f"{what}: {words[0]}", "check the folder's permissions, or name one with '?folder='"
        )


WRITES = ("outputs", "samples", "layers")  # keys of a task that name files it writes
GET_PYTHON = "install Python 3.9 or newer there, or name it with '?python='"
REFUSALS = {  # exit code of a Python that is asked for its version -> what happened, what to do
    1: ("{python} there is older than 3.9", GET_PYTHON),
    126: ("{python} there does not run: {words}", "is it for another processor? name another with '?python='"),
    127: ("no {python} there", GET_PYTHON),
}
TIMED_OUT, SMALLER = 124, "a smaller batch or model, or free some"
DEATHS = (  # exit code of the agent and words on stderr -> what happened, what to do
    (137, "", "the job was killed there", f"most likely out of memory: {SMALLER}"),
    (1, "Cannot allocate memory", "out of memory there", SMALLER),
    (1, "MemoryError", "out of memory there", SMALLER),
)


def _kill(work: str, signal: str) -> str:
    """A script that sends a signal to every process whose words name a file of a run, and not to itself: brackets."""
    run = PurePosixPath(work).name
    found = f"grep -qs '{run[:-1]}[{run[-1]}]/' $p/cmdline && kill -{signal} ${{p#/proc/}}"
    return f"for p in /proc/[0-9]*; do {found}; done 2>/dev/null; true"


def quote(text: str) -> str:
    """One word of a shell."""
    return shlex.quote(text)


def retried(work: Callable[[], T], waits_s: Sequence[float] = WAITS_S) -> T:
    """Again after a transient ChannelError; the last one is raised."""
    for wait_s in waits_s:
        try:
            return work()
        except ChannelError as error:
            if not error.transient:
                raise
            time.sleep(wait_s)
    return work()
