"""`dedup` as a process of its own for each call, without paying for the import of torch each time.

A server process has imported what the commands need and nothing else; each call is a fork of it. It must not use torch
itself, which does not survive a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO

_ROOT = pathlib.Path(__file__).parents[2]
_PRELOADED = (
    "torch",
    "safetensors.torch",
    "core.embedding",
    "core.learning.comparison",
    "core.learning.training",
)


class Dedup:
    """Runs `dedup`."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def __call__(
        self, *arguments: str | pathlib.Path, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run `dedup` with `arguments` in the environment `env` to its end."""
        words = [str(argument) for argument in arguments]
        with tempfile.TemporaryDirectory() as folder:
            outputs = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
            call = {"arguments": words, "env": dict(env), "outputs": [str(path) for path in outputs]}
            stdin, stdout = self._server.stdin, self._server.stdout
            assert stdin
            assert stdout
            stdin.write(json.dumps(call) + "\n")
            stdin.flush()
            answer = stdout.readline()
            assert answer, "the server of forks has ended"
            texts = [path.read_text(encoding="utf-8") for path in outputs]
        return subprocess.CompletedProcess(words, int(answer), *texts)


@contextlib.contextmanager
def server() -> Iterator[Dedup]:
    """A server of forks for the block."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Dedup(process)


def _serve(calls: IO[str]) -> None:
    for name in _PRELOADED:
        __import__(name)
    for line in calls:
        call = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(call["arguments"], call["env"], call["outputs"])
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(arguments: list[str], env: Mapping[str, str], outputs: list[str]) -> None:
    """Never returns: what the interpreter does at its end is the server's to do."""
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["dedup", *arguments]
    code: object = 0
    try:
        from workers import cli

        cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - told as the interpreter would
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve(sys.stdin)
