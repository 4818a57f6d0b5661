from __future__ import annotations

import pytest
from envoy_data_plane.envoy.config.core.v3 import Extension, TypedExtensionConfig
from envoy_data_plane.envoy.config.core.v3 import Node as WholeNode
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from envoy_data_plane.envoy.service.discovery.v3 import Resource as WholeResource
from envoy_data_plane.envoy.type.v3 import SemanticVersion
from envoy_data_plane.google.protobuf import Any, Struct, Value
from envoy_data_plane.google.rpc import Status
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.xds.errors import WireError
from lockgate.xds.serve.discovery import DeltaRequest, DeltaResponse, Node
from lockgate.xds.snapshot import CLUSTER, FILTER_CONFIG, Resource
from lockgate.xds.wire import frame

names = st.lists(st.text(min_size=1, max_size=8), max_size=3)


@settings(deadline=None)
@given(
    names,
    names,
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    st.text(max_size=4),
    st.none() | st.builds(Status, code=st.integers(0, 16), message=st.text(max_size=20)),
    st.booleans(),
)
def test_reads_what_a_client_writes(
    subscribe: list[str],
    unsubscribe: list[str],
    versions: dict[str, str],
    nonce: str,
    error: Status | None,
    first: bool,
) -> None:
    node = WholeNode(id="n1", cluster="c1", user_agent_name="envoy", extensions=[Extension(name="x")])
    whole = DeltaDiscoveryRequest(
        node=node if first else None,
        type_url=CLUSTER,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        initial_resource_versions=versions,
        response_nonce=nonce,
        error_detail=error,
    )
    read = DeltaRequest.decode(bytes(whole))
    assert (read.type_url, read.subscribe, read.unsubscribe) == (CLUSTER, tuple(subscribe), tuple(unsubscribe))
    assert (dict(read.initial_versions), read.nonce) == (versions, nonce)
    assert read.node == (Node("n1", "c1") if first else None)
    if error is None:
        assert read.error is None
    else:
        assert read.error == (error.message or f"status code {error.code} without a text")


def test_writes_what_a_client_reads() -> None:
    body = bytes(TypedExtensionConfig(name="a", typed_config=Any(type_url="t", value=b"1")))
    ours = DeltaResponse(FILTER_CONFIG, "7", (Resource(FILTER_CONFIG, "a", body),), ("gone", "gone too"), "3")
    whole = DeltaDiscoveryResponse(
        system_version_info="3",
        resources=[
            WholeResource(
                name="a",
                version=Resource(FILTER_CONFIG, "a", body).version,
                resource=Any(type_url=FILTER_CONFIG, value=body),
            )
        ],
        type_url=FILTER_CONFIG,
        removed_resources=["gone", "gone too"],
        nonce="7",
    )
    assert DeltaDiscoveryResponse.parse(ours.encode()) == whole


def test_nonsense_is_refused() -> None:
    with pytest.raises(WireError, match="cannot read a DeltaDiscoveryRequest from an xDS client"):
        DeltaRequest.decode(b"GET / HTTP/1.1")


def said_of_itself(*, version: int = 40, metadata: tuple[str, ...], extensions: tuple[str, ...]) -> Node:
    """`metadata` in the order of the wire, where a map has any."""
    entries = b"".join(bytes(Struct(fields={key: Value(string_value="x")})) for key in metadata)
    head = bytes(WholeNode(id="n1", user_agent_name="envoy", extensions=[Extension(name=name) for name in extensions]))
    build = frame(1, bytes(SemanticVersion(major_number=1, minor_number=version))) + frame(2, entries)
    request = frame(1, head + frame(8, build))
    node = DeltaRequest.decode(request).node
    assert node is not None
    return node


def test_a_build_is_what_a_client_says_of_itself_in_whatever_order() -> None:
    one = said_of_itself(metadata=("sha", "ssl"), extensions=("a", "b"))
    assert one.build == said_of_itself(metadata=("ssl", "sha"), extensions=("b", "a")).build
    others = (
        said_of_itself(version=41, metadata=("sha", "ssl"), extensions=("a", "b")),
        said_of_itself(metadata=("sha",), extensions=("a", "b")),
        said_of_itself(metadata=("sha", "ssl"), extensions=("a",)),
    )
    assert len({each.build for each in (one, *others)}) == 4
