from __future__ import annotations

import os
from pathlib import Path

import pytest
from lockgate.agent.playground import Playground
from lockgate.redirect.errors import NamespaceGoneError
from lockgate.redirect.kernel import netns


def test_only_the_function_runs_inside() -> None:
    here = netns.cookie(Path("/proc/self/ns/net"))
    with Playground(f"netns{os.getpid()}") as ground:
        there = netns.cookie(ground.node.path)
        assert here != there
        assert netns.run_in(ground.node.path, lambda: netns.cookie(Path("/proc/thread-self/ns/net"))) == there
        assert netns.cookie(Path("/proc/thread-self/ns/net")) == here


def test_errors_of_the_function_come_out() -> None:
    with pytest.raises(ZeroDivisionError):
        netns.run_in(Path("/proc/self/ns/net"), lambda: 1 // 0)


def test_what_is_no_namespace_is_named() -> None:
    with pytest.raises(NamespaceGoneError, match="lg-nowhere is gone"):
        netns.run_in(netns.named("lg-nowhere"), lambda: None)
    with pytest.raises(NamespaceGoneError, match="is not a network namespace"):
        netns.run_in(Path(__file__), lambda: None)
    with pytest.raises(NamespaceGoneError, match="is gone"):
        netns.cookie(netns.of_process(2**22 - 1))
