"""What tests of bringing worlds into force share."""

from __future__ import annotations

from typing import cast

import pytest
from lockgate.agent.force import applier as module
from lockgate.agent.force.applier import Applier
from lockgate.redirect.datapath import Datapath
from lockgate.tests.unit.agent.recorded_node import HTTP_PORT, KAFKA, TLS, Recorded
from lockgate.xds import XdsServer


@pytest.fixture
def node() -> Recorded:
    return Recorded()


@pytest.fixture
def applier(node: Recorded, monkeypatch: pytest.MonkeyPatch) -> Applier:
    monkeypatch.setattr(module, "ACK_SECONDS", 0.0)
    return Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: node.envoy_runs, TLS, KAFKA)
