"""The policy language as it is written: from YAML to the model, with every problem of a file in one go."""
