"""The node agent enforces a policy: at L4 in the kernel alone, or at L7 through the node's shared Envoy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import ClassVar

from lockgate.agent.playground import Playground
from lockgate.agent.settings import Settings

from . import counter
from .mode import ALLOWED, PORT, Mode, spawn

_POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: {app}
  namespace: default
spec:
  endpointSelector:
    matchLabels:
      app: {app}
  ingress:
  - fromEndpoints:
    - matchLabels:
        role: frontend
    toPorts:
    - ports:
      - port: "{port}"
        protocol: TCP
"""
_AGENT = "lockgate agent"


def policy_for(app: str, rules: str = "") -> str:
    """The client may reach the pods labelled app=`app`; if there are `rules` (YAML), with such requests alone."""
    text = _POLICY.format(app=app, port=PORT)
    return f"{text}      rules:\n{indent(rules, '        ')}\n" if rules else text


def http_policy(app: str, path: str) -> str:
    """Likewise: the client may GET `path`."""
    return policy_for(app, f"http:\n- method: GET\n  path: {path}")


class Policed(Mode):
    """`lockgate agent run` in the node's namespace, exactly as a user starts it."""

    policy: ClassVar[str]
    config: ClassVar[str] = ""  # of the agent's --config
    command: ClassVar[tuple[str, ...]] = (str(Path(sys.executable).with_name("lockgate")),)

    @property
    def _settings(self) -> Settings:
        directory = self.directory
        return Settings(
            directory / "policies",
            directory / "workloads.yaml",
            run_dir=directory / "run",
            state_dir=directory / "state",
        )

    def _engage(self, playground: Playground) -> None:
        settings = self._settings
        settings.policies.mkdir()
        for name, policy in self._policies().items():
            (settings.policies / f"{name}.yaml").write_text(policy)
        settings.workloads.write_text(playground.workloads_yaml())
        command: list[str | Path] = [*self.command, "agent", "run"]
        command += ["--policies", settings.policies, "--workloads", settings.workloads]
        command += ["--run-dir", settings.run_dir, "--state-dir", settings.state_dir]
        if self.config:
            config = self.directory / "config.yaml"
            config.write_text(self.config)
            command += ["--config", config]
        with self.log_of(_AGENT).open("wb") as log:
            self._agent = spawn(playground.node, command, stdout=log, stderr=subprocess.STDOUT)

    def _policies(self) -> dict[str, str]:
        """The policies' files, by name."""
        return {"bench": self.policy}

    def _parts(self) -> list[tuple[str, subprocess.Popen[bytes]]]:
        return [*super()._parts(), (_AGENT, self._agent)]

    def counted(self) -> tuple[int, ...]:
        return (counter.requests(self._settings.admin_socket, ["lockgate_http"]),)

    def close(self) -> None:
        """Also removes what the agent left pinned for a successor that will not come."""
        super().close()
        shutil.rmtree(self._settings.pin_dir, ignore_errors=True)


class PolicedL4(Policed):
    """Peer and port only: packets are judged in tc and never leave the kernel."""

    key = "l4"
    title = "L4-policed"
    forbidden = "200"
    intruder_gets = "dropped"
    proxied = False
    policy = policy_for("server")


class HostRouted(PolicedL4):
    """The same, and packets go from one pod to the other past the node's stack."""

    key = "hostrouting"
    title = "L4-policed, host routing"
    config = "host_routing: true\n"


class PolicedL7(Policed):
    """Peer, port, method and path: connections are redirected to the one Envoy of the node."""

    key = "l7"
    title = "L7-policed"
    forbidden = "403"
    intruder_gets = "dropped"
    proxied = True
    policy = http_policy("server", ALLOWED)
