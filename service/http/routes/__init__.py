"""The HTTP handlers, thin: JSON in, a call, JSON out."""
