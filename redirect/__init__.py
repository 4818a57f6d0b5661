"""How traffic gets to Envoy: endpoints' interfaces, the plan for the kernel's maps, the programs, and the routes."""
