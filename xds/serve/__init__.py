"""The xDS server: what each client has, wants and refused, and the gRPC services in front of that."""
