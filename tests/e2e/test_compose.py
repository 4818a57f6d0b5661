"""The Compose file on a real Docker: the agent in a container with four capabilities, two workloads beside it.

The image is the machine's own /usr and this repository, seen through an image of a few links: what a build of the
Containerfile installs is here already.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from lockgate.envoy.running import run_files
from lockgate.tests.e2e.engine import IMAGE, Engine
from lockgate.tests.e2e.live_node import LiveNode

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE = REPOSITORY / "compose" / "compose.yaml"
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
MOUNTPOINTS = (
    *("usr", "opt/lockgate", "host/proc/sys/net", "tmp", "etc/lockgate/policies", "run"),
    *("var/lib/lockgate", "var/cache/lockgate"),
)


class Project:
    """The Compose file on an engine."""

    def __init__(self, engine: Engine, folder: Path, run_dir: Path) -> None:
        self._engine = engine
        self._run_dir = run_dir
        engine.run(["docker", "import", "-", "lockgate:local"], input=_image())
        override = {
            "services": {
                "lockgate": {
                    "entrypoint": [f"{REPOSITORY}/.venv/bin/python", "-P", "-m", "lockgate"],
                    "command": ["agent", "run", *_paths(), "--run-dir", str(run_dir)],
                    "volumes": ["/usr:/usr:ro", f"{REPOSITORY}:{REPOSITORY}:ro"],
                    "healthcheck": {
                        "test": ["CMD", f"{REPOSITORY}/.venv/bin/python", "-P", "-m", "lockgate", "status"],
                    },
                }
            }
        }
        self._override = folder / "override.yaml"
        self._override.write_text(yaml.safe_dump(override))
        self._variables = {
            "LOCKGATE_RUN_DIR": str(run_dir),
            "DOCKER_SOCKET": str(engine.socket),
            "SAMPLE_IMAGE": IMAGE,
        }

    def __call__(self, *arguments: str) -> str:
        """docker compose; what it printed."""
        command = [f"{REPOSITORY}/.venv/bin/docker-compose", "-f", str(COMPOSE), "-f", str(self._override)]
        variables = [f"{key}={value}" for key, value in self._variables.items()]
        return self._engine.run(["env", *variables, *command, *arguments]).decode()

    def envoy_pid(self) -> int:
        """Of the Envoy that serves."""
        state = run_files.read_state(self._run_dir)
        assert state is not None
        return state.envoy_pid

    def ask(self, path: str, service: str = "till") -> str:
        """What a service is told by the shop."""
        try:
            return self(
                "exec", "-T", service, "/bin/busybox", "timeout", "5", "wget", "-qO-", f"http://shop:8080{path}"
            )
        except RuntimeError as error:
            return str(error)


def _paths() -> list[str]:
    names = {"--policies": "policies", "--workloads": "workloads", "--config": "config.yaml"}
    return [text for option, name in names.items() for text in (option, f"/etc/lockgate/{name}")]


def _image() -> bytes:
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as image:
        for path in MOUNTPOINTS:
            folder = tarfile.TarInfo(path)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            image.addfile(folder)
        for path, target in LINKS.items():
            link = tarfile.TarInfo(path)
            link.type, link.linkname = tarfile.SYMTYPE, target
            image.addfile(link)
    return made.getvalue()


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with ExitStack() as stack:
        node = LiveNode()
        stack.callback(node.close)
        engine = Engine("docker", node.node, node.folder / "e")
        stack.callback(engine.close)
        node.run_dir = node.folder / "run"
        node.run_dir.mkdir(mode=0o700)
        made = Project(engine, node.folder, node.run_dir)
        try:
            made("up", "-d", "--wait", "--wait-timeout", "120")
            yield made
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{made('logs', 'lockgate')[-4000:]}") from None
        finally:
            made("down", "-t", "1", "-v")


def test_the_policy_is_enforced_on_what_the_engine_tells(project: Project) -> None:
    assert project.ask("/open") == "open\n"
    assert "403 Forbidden" in project.ask("/shut")
    assert "403 Forbidden" in project.ask("/open?shut")


def test_the_agents_container_starts_anew(project: Project) -> None:
    envoy = project.envoy_pid()
    project("restart", "-t", "2", "lockgate")
    project("up", "-d", "--wait", "--wait-timeout", "120")
    assert project.ask("/open") == "open\n"
    assert "403 Forbidden" in project.ask("/shut")
    assert project.envoy_pid() == envoy, "it outlived the container"
