"""The demo: bundled sample photos, and a walk through the service with them."""
