"""What Envoy says of itself when it is asked, as small records."""
