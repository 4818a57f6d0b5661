"""What is done about a policy that Envoy refuses: it is found and held back, and no other waits for it."""
