"""Where the node's listeners are: one port on loopback, IPv4 and IPv6. The kernel hands them connections there.

Both families are one listener, so that whatever comes by ADS for its filters is taken up once.
"""

from __future__ import annotations

from .messages import core, direct_response, listener, protobuf

_LOOPBACK = (("127.0.0.1", 32), ("::1", 128))  # with the length of the prefix that is the address alone


def listen(port: int) -> tuple[core.Address, list[listener.AdditionalAddress]]:
    """`address` and `additional_addresses` of a listener."""
    first, *others = (
        core.Address(socket_address=core.SocketAddress(address=address, port_value=port)) for address, _ in _LOOPBACK
    )
    return first, [listener.AdditionalAddress(address=each) for each in others]


def refuse_own_address(port: int) -> listener.FilterChain:
    """Closes a connection that was made to the listener itself: its original destination would be this listener again,
    and one request would connect to itself until the descriptors run out."""
    return listener.FilterChain(
        name="own_address",
        filter_chain_match=listener.FilterChainMatch(
            destination_port=port,
            prefix_ranges=[core.CidrRange(address_prefix=address, prefix_len=bits) for address, bits in _LOOPBACK],
        ),
        filters=[
            listener.Filter(
                name="envoy.filters.network.direct_response", typed_config=protobuf.Any.pack(direct_response.Config())
            )
        ],
    )
