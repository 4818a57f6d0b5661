"""eBPF host routing. A package, so that the node of its tests ends with them."""
