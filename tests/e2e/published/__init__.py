"""Published ports. A package, so that the nodes of its tests end with them."""
