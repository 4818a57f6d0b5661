"""Envoy as a process: started, watched, replaced without a gap, ended."""
