"""Why an Envoy ended, in words."""

from __future__ import annotations

import os
import re
import signal

# "[2026-01-01 00:00:00.000][12][critical][main] [source/server/server.cc:414] text"
_LOG_LINE = re.compile(rb"\[[^\]]+\]\[\d+\]\[(?P<level>\w+)\]\[[\w.]+\] (?:\[[^\]]+\] )?(?P<text>.*)")
_TOLD = 300  # bytes of Envoy's last words that go into the state


class LastWords:
    """Listens to Envoy's log for the line that says why it ends: the last critical one, else the last error."""

    _RANK = (b"error", b"critical")

    def __init__(self) -> None:
        self._rest = b""
        self._rank = -1
        self._text = b""

    def hear(self, data: bytes) -> None:
        """Take the next piece of the log, in whatever sizes it comes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-65536:]
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        found = _LOG_LINE.match(line)
        if found is None:
            # What is not in the log's form is a message of the dynamic linker, of a sanitizer, or a usage error.
            if self._rank < 0 and line.strip():
                self._text = line.strip()
            return
        if found["level"] in self._RANK and self._RANK.index(found["level"]) >= self._rank:
            self._rank = self._RANK.index(found["level"])
            self._text = found["text"].strip()

    def __str__(self) -> str:
        return self._text[:_TOLD].decode(errors="replace")


def exit_in_words(status: int, last_words: str) -> str:
    """What waitpid's `status` means, with what Envoy said last."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        how = f"exited with status {code}"
    else:
        try:
            how = f"killed by {signal.Signals(-code).name}"
        except ValueError:
            how = f"killed by signal {-code}"
    return f"{how}: {last_words}" if last_words else how
