"""An explanation for people."""

from __future__ import annotations

from typing import Any

_CONSIDERED_LIMIT = 20  # rules shown for each direction; all of them are in -o json


def explanation_text(explanation: dict[str, Any]) -> str:
    """The verdict, then each direction with the rules that were considered, in order; for each backend of a service."""
    lines = [
        f"{explanation['verdict'].upper()}  {explanation['from']['name']} -> {explanation['to']['name']}",
        f"  {explanation['reason']}",
    ]
    if "backends" in explanation:
        for backend in explanation["backends"]:
            lines += [f"backend {backend['address']} port {backend['port']}, weight {backend['weight']}"]
            lines += [f"  {line}" for line in explanation_text(backend).splitlines()]
        return "\n".join(lines)
    for direction in ("egress", "ingress"):
        side = explanation[direction]
        through = " (through Envoy)" if side["redirected"] else ""
        lines.append(f"{direction}: {side['verdict']}{through}: {side['reason']}")
        lines += [f"  header {change['name']}: {_change_text(change)}" for change in side.get("headers", ())]
        # What matched tells most, so it is never cut.
        shown = sorted(side["considered"], key=lambda item: not item["matched"])[:_CONSIDERED_LIMIT]
        chosen = [item for item in side["considered"] if item in shown]
        for item in chosen:
            mark = "+" if item["matched"] else "-"
            place = f" ({item['source']}:{item['line']})" if item["source"] else ""
            lines.append(f"  {mark} {item['effect']} {item['policy']} {item['rule']}{place}")
            lines.append(f"      {item['why']}")
        if len(side["considered"]) > len(chosen):
            lines.append(
                f"  ... and {len(side['considered']) - len(chosen)} more that do not match (-o json shows them)"
            )
    return "\n".join(lines)


def _change_text(change: dict[str, Any]) -> str:
    verb = {"LOG": "logged", "ADD": "added", "REPLACE": "replaced", "DELETE": "removed"}[change["action"]]
    shown = change["value"] is not None and change["action"] in ("ADD", "REPLACE")
    return f"{verb}: '{change['value']}'" if shown else verb
