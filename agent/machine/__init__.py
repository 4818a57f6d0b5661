"""The machine that the agent runs on: what it must have, what is claimed on it, and how that is given back."""
