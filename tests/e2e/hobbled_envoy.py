"""An Envoy that lacks an extension: it refuses the policies that need it, and no others."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lockgate.envoy.running.binary import find_binary

REQUEST_HEADERS = "envoy.matching.http.input/envoy.matching.inputs.request_headers"  # also paths and methods

# The agent takes an ELF program only.
_LAUNCHER = """
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int count, char **given)
{
    char **all = calloc(count + 3, sizeof *all);
    memcpy(all, given, count * sizeof *all);
    all[count] = "--disable-extensions";
    all[count + 1] = "%s";
    execv("%s", all);
    return 127;
}
"""


def hobbled_envoy(folder: Path, extension: str = REQUEST_HEADERS) -> Path:
    """The pinned Envoy without `extension`; for `agent run --envoy`."""
    source, program = folder / "hobbled.c", folder / "hobbled-envoy"
    source.write_text(_LAUNCHER % (extension, find_binary().path))
    subprocess.run(["cc", "-O", "-o", program, source], check=True, capture_output=True, timeout=60)
    return program
