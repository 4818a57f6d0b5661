"""What is done about a policy that Envoy refuses or the kernel has no room for: it is found and held back, and no
other waits for it."""
