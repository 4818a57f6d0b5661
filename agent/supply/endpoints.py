"""Which workloads are on this node: from the list of the user to endpoints with interfaces and addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ...policies import workload_identity
from ...policies.workload import Endpoint, IPAddress, Workload
from ...redirect.device import Device
from ...redirect.errors import NotSeenError, RedirectError


@dataclass(frozen=True, slots=True)
class Discovery:
    """The node's endpoints, and a sentence for each workload that could not be found or used as written."""

    endpoints: tuple[Endpoint, ...] = ()
    problems: tuple[str, ...] = ()


def discover(
    workloads: Iterable[Workload], find: Callable[[Workload], Device], before: Sequence[Endpoint] = ()
) -> Discovery:
    """Looks every workload up with `find` (which raises RedirectError for one that is not there).

    A workload that is gone stays known by the addresses the user wrote, so that peers' rules about it keep their
    meaning, but nothing can be enforced for it. One of which nothing can be told stays where it was `before`. An
    address belongs to the workload that claims it first.
    """
    known = {endpoint.key: endpoint for endpoint in before}
    endpoints: list[Endpoint] = []
    problems: list[str] = []
    device: Device | None
    owners: dict[IPAddress, str] = {}
    interfaces: dict[int, str] = {}
    for workload in workloads:
        endpoint = Endpoint(workload=workload, identity=workload_identity(workload), ips=workload.ips)
        missing = False
        if workload.netns or workload.pid or workload.interface or workload.cgroup:
            try:
                device = find(workload)
            except RedirectError as error:
                problems.append(f"workload {workload.key}: {error}")
                device = _last_seen(workload, known.get(workload.key)) if isinstance(error, NotSeenError) else None
                missing = device is None
            if device is not None:
                if device.ifindex in interfaces:
                    problems.append(
                        f"workload {workload.key} has the same {_what(workload, device)} as "
                        f"{interfaces[device.ifindex]}; the second one is ignored: correct one of them"
                    )
                    continue
                interfaces[device.ifindex] = workload.key
                endpoint = replace(
                    endpoint, ips=workload.ips or device.ips, ifindex=device.ifindex, interface=device.interface
                )
        taken = [ip for ip in endpoint.ips if ip in owners]
        if taken:
            problems.append(
                f"workload {workload.key} claims {taken[0]}, which belongs to {owners[taken[0]]}; "
                "the address stays with the first: correct one of them"
            )
            endpoint = replace(endpoint, ips=tuple(ip for ip in endpoint.ips if ip not in owners))
        if not endpoint.ips and not missing and not taken and not endpoint.of_node:
            problems.append(f"workload {workload.key} has no address: give it `ips`, or an interface that has some")
        owners.update((ip, workload.key) for ip in endpoint.ips)
        endpoints.append(endpoint)
    return Discovery(tuple(endpoints), tuple(problems))


def _last_seen(workload: Workload, before: Endpoint | None) -> Device | None:
    """Where it was, if it is to be looked for at the same place."""
    if before is None or not before.local or _place(workload) != _place(before.workload):
        return None
    return Device(before.ifindex, before.interface, before.ips)


def _place(workload: Workload) -> tuple[object, ...]:
    return workload.netns, workload.pid, workload.born, workload.interface, workload.cgroup


def _what(workload: Workload, device: Device) -> str:
    return f"control group {workload.cgroup}" if workload.cgroup else f"interface {device.interface}"
