"""Types that are told otherwise than the protocol alone would have it, for what clients make of them."""

from __future__ import annotations

from ..snapshot import FILTER_CONFIG, SECRET

# Types whose resources travel one by one, so that a NACK always names one. There are few of them on a node.
ALONE = frozenset({FILTER_CONFIG})

# Types whose absence is not told to a client that never had the resource. Envoy 1.40 takes such a removal of a filter
# config as an answer, stops waiting for its fetch timeout and never opens the listener; untold, it falls back to the
# slot's default in time. One that it refused was its answer already.
ABSENCE_UNTOLD = frozenset({FILTER_CONFIG})

# Types of which the client gets what it holds once more after it refused another version. Envoy 1.40 notes a filter
# config as its last one before it makes the filter, and a secret before it makes the TLS context: where that fails it
# refuses it, and when the same bytes come again next, after a restart of this server, it confirms them unseen and goes
# on by what it had. Of a client that holds nothing a removal takes a noted filter config away; of a secret Envoy heeds
# none.
# https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/filter/config_discovery_impl.cc
# https://github.com/envoyproxy/envoy/blob/v1.40.0/source/common/secret/sds_api.cc
HELD_AGAIN = frozenset({FILTER_CONFIG, SECRET})
