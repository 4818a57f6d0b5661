"""The life of the node's Envoy. A package, so that its fixtures are those of its conftest alone."""
