"""Envoys on machines without an agent: who they are, what they are told, and what they say of it."""
