"""A share of a great many policies is parsed by a second process: Python uses one core, and an agent starts sooner.

    python -m lockgate.agent.supply.second_reader   (documents on standard input, what came of them on standard output)

The agent begins with the first, the other process with the last, and where they meet all are read: whichever had more
of the machine has read more of them. What is not answered, for whatever reason, is parsed here. The answers go to a
file in memory: a pipe would be full after a few hundred, and the process would wait for the agent.
"""

from __future__ import annotations

import gc
import os
import pickle
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from ...policies import ParsedPolicies, parse_policies

if TYPE_CHECKING:
    from ...store import Document

_FEW = 2000  # documents that are parsed sooner than a process is there
_OURS = 0.25  # of them, at least: it has to be started, and to send all that it read
_CHUNK = 250  # documents that it answers at a time
_HEAD = struct.Struct("=QQ")  # of an answer: which chunk it is about, and how many bytes follow


class SecondReader:
    """Begins with the last of `documents` when it is made. To be asked for all of them, from the first to the last, and
    then closed."""

    def __init__(self, documents: Sequence[Document], few: int = _FEW, chunk: int = _CHUNK) -> None:
        readable = [document for document in documents if not document.failure]
        theirs = readable[int(len(readable) * _OURS) :] if len(readable) > few else []
        self._chunks = [theirs[start : start + chunk] for start in range(0, len(theirs), chunk)]
        self._numbers = {each[0].source: number for number, each in enumerate(self._chunks)}
        self._file = _memory("answers")
        self._heard = 0  # bytes of it
        self._answers: dict[int, tuple[int, int]] = {}  # where they stand in it: from, and how many bytes
        self._ready: deque[tuple[Document, ParsedPolicies]] = deque()
        self.process = _start(self._chunks, self._file) if theirs else None

    def parse(self, document: Document) -> ParsedPolicies:
        """What came of it."""
        number = self._numbers.get(document.source)
        if number is not None and document is self._chunks[number][0]:
            self._ready = deque(zip(self._chunks[number], self._answer(number), strict=False))
        if self._ready and document is self._ready[0][0]:
            return self._ready.popleft()[1]
        return parse_policies(document.data, document.source)

    def close(self) -> None:
        """Ends the process."""
        self._end()
        self._file.close()

    def _answer(self, number: int) -> Sequence[ParsedPolicies]:
        """Nothing while there is none."""
        if self.process is not None:
            self._listen()
        start, size = self._answers.get(number, (0, 0))
        if not size:
            return ()
        self._end()  # whatever comes after this chunk is answered
        answer: Sequence[ParsedPolicies] = pickle.loads(os.pread(self._file.fileno(), size, start))
        return answer

    def _listen(self) -> None:
        """The other process writes meanwhile, and may have ended anywhere in an answer."""
        end = os.fstat(self._file.fileno()).st_size
        while end - self._heard >= _HEAD.size:
            number, size = _HEAD.unpack(os.pread(self._file.fileno(), _HEAD.size, self._heard))
            start = self._heard + _HEAD.size
            if end - start < size:
                return
            self._answers[number] = start, size
            self._heard = start + size

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def _memory(name: str) -> BinaryIO:
    return os.fdopen(os.memfd_create(name), "w+b")


def _start(chunks: Sequence[Sequence[Document]], answers: BinaryIO) -> subprocess.Popen[bytes]:
    with _memory("documents") as file:
        pickle.dump([[(document.data, document.source) for document in chunk] for chunk in chunks], file)
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lockgate.agent.supply.second_reader"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=file,
            stdout=answers,
            stderr=subprocess.DEVNULL,
        )


def _answer(chunks: Sequence[Sequence[tuple[bytes, str]]], out: BinaryIO) -> None:
    """From the last to the first."""
    for number in reversed(range(len(chunks))):
        answer = pickle.dumps([parse_policies(data, source) for data, source in chunks[number]], 5)
        out.write(_HEAD.pack(number, len(answer)) + answer)
        out.flush()


if __name__ == "__main__":
    gc.disable()  # what it reads is soon gone with it
    _answer(pickle.load(sys.stdin.buffer), sys.stdout.buffer)
