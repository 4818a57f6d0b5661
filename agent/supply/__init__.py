"""Where policies and workloads come from, and what of them is accepted."""
