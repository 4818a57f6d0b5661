"""What was accepted is brought into force, at Envoy before the kernel, and kept there."""
