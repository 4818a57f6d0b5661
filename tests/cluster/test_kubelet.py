"""Pods that a real kubelet runs, which the agent finds by the control groups that it made."""

from __future__ import annotations

from lockgate.tests.cluster.daemonset_node import IDLE, DaemonSetNode
from lockgate.tests.e2e.live_node import DENIED, DROPPED


def test_a_sandbox_that_the_kubelet_makes_anew(policed: DaemonSetNode) -> None:
    live = policed.live
    before = policed.runtime.containers("frontend")
    policed.kill(before)
    live.until("it runs again", lambda: len(set(policed.runtime.containers("frontend")) - set(before)) == 2)
    live.until("all is well", live.ok)
    live.becomes(DENIED, lambda: policed.asks("frontend", "/shut"))


def test_a_pod_that_comes_and_goes(policed: DaemonSetNode) -> None:
    live = policed.live
    policed.delete("intruder")
    policed.put("intruder", IDLE)
    live.until("it is an endpoint", lambda: "default/intruder" in policed.endpoints())
    live.until("it runs", lambda: bool(policed.ip("intruder")))
    live.becomes(DROPPED, lambda: policed.asks("intruder", "/open"))
