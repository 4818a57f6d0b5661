"""What the agent tells: the local API and its answers, metrics, what was denied."""
