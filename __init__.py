"""Lockgate: a sidecarless L7 mesh for one node, from CiliumNetworkPolicy to eBPF and a shared Envoy."""
