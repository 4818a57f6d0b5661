"""Policies compiled into what Envoy judges by: matcher trees of maps, written straight to the wire. Pure."""
