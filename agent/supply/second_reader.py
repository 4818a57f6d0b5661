"""A share of a great many policies is parsed by a second process: Python uses one core, and an agent starts sooner.

    python -m lockgate.agent.supply.second_reader   (documents on standard input, what came of them on standard output)

What it does not answer, for whatever reason, is parsed here. Its answers go to a file in memory: a pipe would be full
after a few hundred, and it would wait for the agent, which reads its own share first.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from ...policies import ParsedPolicies, parse_policies

if TYPE_CHECKING:
    from ...store import Document

_FEW = 2000  # documents that are parsed sooner than a process is there
_SHARE = 0.4  # is the second process's: it has to be started, and to send all that it read
_CHUNK = 250  # documents that it answers at a time


class SecondReader:
    """Begins with the last of `documents` when it is made. To be asked for all of them, from the first to the last, and
    then closed."""

    def __init__(self, documents: Sequence[Document], few: int = _FEW) -> None:
        readable = [document for document in documents if not document.failure]
        theirs = readable[int(len(readable) * (1 - _SHARE)) :] if len(readable) > few else []
        self._theirs = deque(theirs)
        self._file = _memory("answers")
        self._answers: deque[ParsedPolicies] = deque()
        self.process = _start([(document.data, document.source) for document in theirs], self._file) if theirs else None

    def parse(self, document: Document) -> ParsedPolicies:
        """What came of it."""
        if self._theirs and document is self._theirs[0]:
            if not self._answers:
                self._answers.extend(self._more())
            if self._answers:
                self._theirs.popleft()
                return self._answers.popleft()
            self._theirs.clear()
        return parse_policies(document.data, document.source)

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self._file.close()

    def _more(self) -> Sequence[ParsedPolicies]:
        if self.process is not None:
            self.process.wait()
            self.process = None
            self._file.seek(0)
        try:
            answers: Sequence[ParsedPolicies] = pickle.load(self._file)
        except (EOFError, pickle.UnpicklingError):
            return ()
        return answers


def _memory(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(name), "w+b")


def _start(documents: Sequence[tuple[bytes, str]], answers: BinaryIO) -> subprocess.Popen[bytes]:
    with _memory("documents") as file:
        pickle.dump(documents, file)
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lockgate.agent.supply.second_reader"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=file,
            stdout=answers,
            stderr=subprocess.DEVNULL,
        )


def _answer(documents: Sequence[tuple[bytes, str]], out: BinaryIO) -> None:
    for start in range(0, len(documents), _CHUNK):
        pickle.dump([parse_policies(data, source) for data, source in documents[start : start + _CHUNK]], out, 5)
        out.flush()


if __name__ == "__main__":
    gc.disable()  # what it reads is soon gone with it
    _answer(pickle.load(sys.stdin.buffer), sys.stdout.buffer)
