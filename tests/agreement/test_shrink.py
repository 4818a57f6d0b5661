"""Shrinking leaves what a disagreement needs, and nothing else."""

from __future__ import annotations

from lockgate.tests.agreement.case import Case, Document, Setting
from lockgate.tests.agreement.shrink import shrink


def case() -> Case:
    entry = {"fromCIDR": ["10.0.0.0/8", "192.0.2.0/24"], "toPorts": [{"ports": [{"port": "80"}, {"port": "81"}]}]}
    spec = {"endpointSelector": {"matchLabels": {"app": "a"}}, "ingress": [entry, {}]}
    policies: list[Document] = [{"metadata": {"name": f"p{number}"}, "spec": spec} for number in range(3)]
    workloads: list[Document] = [{"name": "a", "ips": ["10.0.0.1"]}, {"name": "b"}]
    return Case(Setting(policies, workloads), {"from": "a", "to": "b", "port": 80, "http": {"path": "/", "host": "h"}})


async def test_only_what_matters_is_left() -> None:
    async def fails(candidate: Case) -> bool:
        text = candidate.text()
        return "192.0.2.0/24" in text and "path: /" in text

    small = await shrink(case(), fails)
    assert small.setting == Setting([{"spec": {"ingress": [{"fromCIDR": ["192.0.2.0/24"]}]}}])
    assert small.flow == {"from": "a", "to": "b", "port": 80, "http": {"path": "/"}}


async def test_a_case_that_needs_everything_stays() -> None:
    whole = case()

    async def fails(candidate: Case) -> bool:
        return candidate == whole

    assert await shrink(whole, fails) == whole
