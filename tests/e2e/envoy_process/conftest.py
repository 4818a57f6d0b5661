"""Each test in a network namespace and a run dir of its own."""

from __future__ import annotations

from lockgate.tests.e2e.redirected_envoy import namespace_of_its_own, short_run_dir

__all__ = ["namespace_of_its_own", "short_run_dir"]
