"""shop.proto as grpcio's own generated code, made when it is imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc


class Shop:
    """Messages, stubs and servicers of shop.proto."""

    def __init__(self) -> None:
        sys.path.append(str(Path(__file__).parent))  # where grpcio looks for .proto files
        try:
            self._messages, self._services = grpc.protos_and_services("shop.proto")
        finally:
            sys.path.pop()
        self.Text = self._messages.Text

    def stub(self, service: str, channel: grpc.Channel) -> Any:
        """A client of `service`."""
        return getattr(self._services, f"{service}Stub")(channel)

    def serve(self, service: str, servicer: object, server: grpc.Server) -> None:
        """Adds `servicer` to `server`."""
        getattr(self._services, f"add_{service}Servicer_to_server")(servicer, server)


SHOP = Shop()
