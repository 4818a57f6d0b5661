"""What pyproject.toml cannot say: a wheel holds Envoy's dynamic module, built first, and so fits one platform."""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py


class BuildWithModule(build_py):
    """Builds the module before the files of the package are gathered."""

    def run(self) -> None:
        subprocess.run([Path(__file__).with_name("scripts") / "build-module"], check=True)
        super().run()


class WheelOfOneMachine(bdist_wheel):
    """Any Python 3, one platform."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildWithModule, "bdist_wheel": WheelOfOneMachine})
