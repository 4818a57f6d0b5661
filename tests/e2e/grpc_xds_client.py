"""A client of gRPC's own xDS: `python grpc_xds_client.py TARGET`, one call for each line on standard input.

Prints a line for each: the reply, or the status. The bootstrap is in GRPC_XDS_BOOTSTRAP.
https://grpc.github.io/grpc/core/md_doc_grpc_xds_features.html
"""

from __future__ import annotations

import sys

import grpc


def main() -> None:
    """Until standard input ends."""
    with grpc.insecure_channel(sys.argv[1]) as channel:
        call = channel.unary_unary("/test.Echo/WhoAreYou")
        for _ in sys.stdin:
            try:
                print("reply", call(b"", timeout=10).decode(), flush=True)
            except grpc.RpcError as error:
                print("status", error.code().name, error.details(), flush=True)


main()
