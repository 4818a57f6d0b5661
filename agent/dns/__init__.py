"""DNS rules and toFQDNs: the node's transparent DNS proxy, and the names it has seen."""
