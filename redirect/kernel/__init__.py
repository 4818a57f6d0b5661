"""The kernel's own things, one file each: maps, programs, links, namespaces. Nothing here knows a policy."""
