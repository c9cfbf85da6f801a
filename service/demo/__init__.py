"""The demo: carried photos, and a walk through the service with them."""
