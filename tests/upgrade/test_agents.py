"""One version's agent after another's, under load: nothing that was allowed is lost, nothing denied gets through."""

from __future__ import annotations

from lockgate.tests.e2e.live_node import DROPPED, OK
from lockgate.tests.upgrade.conftest import HERE, Mixed


def begin(mixed: Mixed, python: str) -> set[str]:
    """Has that version's agent run, and says what works with it."""
    mixed.start(python)
    mixed.make_containers()
    mixed.node.becomes(OK, mixed.kinds()["published, past Envoy"])
    expected = mixed.expected()
    return {kind for kind, ask in mixed.kinds().items() if ask() == expected[kind]}


def wrong(mixed: Mixed, seen: dict[str, set[str]], worked: set[str]) -> dict[str, set[str]]:
    """Answers that should not have come. What the older version dropped may have been dropped meanwhile too."""
    expected = mixed.expected()
    found = {}
    for kind, answers in seen.items():
        may_be = {expected.get(kind, OK)} | ({DROPPED} if kind in expected and kind not in worked else set())
        found[kind] = answers - may_be
    return {kind: answers for kind, answers in found.items() if answers}


def test_this_agent_takes_over(mixed: Mixed, older: str) -> None:
    worked = begin(mixed, older)
    print("worked before:", sorted(worked), "did not:", sorted({*mixed.kinds()} - worked))
    with mixed.load() as load:
        mixed.node.until("each has asked", lambda: all(load.seen.values()))
        mixed.node.end_agent()
        mixed.start(HERE)
        for kind, ask in mixed.kinds().items():
            mixed.node.becomes(mixed.expected()[kind], ask)
        mixed.node.until("the first Envoy serves no more", lambda: mixed.node.status()["envoy"]["state"] == "running")
    print(load)
    assert wrong(mixed, load.seen, worked) == {}


def test_the_older_one_is_begun_again(mixed: Mixed, older: str) -> None:
    """It takes over, and may end Envoy for that, which it does not know; or it does not start and all goes on as it
    was, and then `agent clean` makes way for it."""
    worked = begin(mixed, HERE)
    assert worked == {*mixed.kinds()}
    with mixed.load() as load:
        mixed.node.until("each has asked", lambda: all(load.seen.values()))
        mixed.node.end_agent()
        starts = True
        try:
            mixed.start(older)
        except AssertionError:
            assert mixed.node.agent is not None and mixed.node.agent.poll() == 1, mixed.node.evidence()
            starts, mixed.node.agent = False, None
        meanwhile = load.seen
        load.forget()
        mixed.node.until("each has asked", lambda: all(load.seen.values()))
    print("it starts:", starts, load)
    lost = wrong(mixed, meanwhile, worked)
    if starts:
        assert all(OK not in answers for answers in lost.values()), "nothing denied gets through"
        lost = {kind: answers for kind, answers in lost.items() if "by request" not in kind}
    assert (lost, wrong(mixed, load.seen, worked)) == ({}, {})
    if not starts:
        assert mixed.node.clean().status == 0
        mixed.start(older)
        for kind in ("pod, by request", "pod, by request, denied", "stranger, 8080", "stranger, 8081"):
            mixed.node.becomes(mixed.expected()[kind], mixed.kinds()[kind])
