"""What Envoy starts with and the listeners it has. Pure: settings in, Envoy's messages out."""
