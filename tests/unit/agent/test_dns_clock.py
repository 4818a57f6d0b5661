from __future__ import annotations

import subprocess
import sys

SHOW = "from lockgate.agent.dns import clock; import time; print(clock.now() - time.monotonic())"


def test_a_suspended_machine_has_grown_older() -> None:
    """As in a time namespace in which it was for a day."""
    command = [sys.executable, "-P", "-c", SHOW]
    ahead = subprocess.run([*command], check=True, capture_output=True, text=True).stdout
    later = ["unshare", "--time", "--fork", "--boottime", "86400", *command]
    slept = subprocess.run(later, check=True, capture_output=True, text=True).stdout
    assert round(float(slept) - float(ahead)) == 86400
