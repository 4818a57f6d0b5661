"""The demonstration: pods, servers, clients and the article's two policies on a real node agent."""
