"""The PyPI package `sovereign`, a control plane in Python that Envoys poll by REST, in an environment of its own."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import yaml

from .errors import StartError

ENVIRONMENT = Path(__file__).parent / ".sovereign"  # bench/xds makes it
_START_SECONDS = 60.0


class Sovereign:
    """One worker, no access log, no authentication. It serves as many clusters as `publish` said."""

    def __init__(self, directory: Path) -> None:
        """Raises StartError."""
        program = ENVIRONMENT / "bin" / "sovereign"
        if not program.exists():
            raise StartError(f"{program} is missing: start the bench by the script bench/xds, which installs it")
        self._state = directory / "clusters.json"
        template = {"protocol": "python", "serialization": "raw", "path": str(_TEMPLATE)}
        settings = {
            "templates": {"default": [{"type": "clusters", "spec": template}]},
            "authentication": {"enabled": False},
            "logging": {"access_logs": {"enabled": False}},
        }
        config = directory / "sovereign.yaml"
        config.write_text(yaml.safe_dump(settings))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.publish(1, 9)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
            "SOVEREIGN_CONFIG": f"file://{config}",
            "SOVEREIGN_HOST": "127.0.0.1",
            "SOVEREIGN_PORT": str(self.port),
            "SOVEREIGN_WORKERS": "1",
            "SOVEREIGN_WORKER_TIMEOUT": "120",
            "LOCKGATE_BENCH_CLUSTERS": str(self._state),
        }
        self._log = directory / "sovereign.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program], cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._await()
        except BaseException:
            self.close()
            raise

    def publish(self, clusters: int, port: int) -> float:
        """That many clusters, of which the first leads to this port; the monotonic time before."""
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps({"count": clusters, "port": port}))
        before = time.monotonic()
        new.replace(self._state)
        return before

    def cpu(self) -> float:
        """Seconds so far, of all its processes."""
        ticks = os.sysconf("SC_CLK_TCK")
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(fields[3]) == self._process.pid:  # its session
                total += int(fields[11]) + int(fields[12])
        return total / ticks

    def close(self) -> None:
        """End it, with its workers."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _await(self) -> None:
        question = json.dumps({"node": {"id": "bench", "cluster": "bench"}})
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                connection.request("POST", "/v3/discovery:clusters", question, {"content-type": "application/json"})
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.1)
        words = self._log.read_text(errors="replace")[-600:]
        raise StartError(f"sovereign does not serve clusters: {words}")


_TEMPLATE = Path(__file__).with_name("sovereign_clusters.py")
