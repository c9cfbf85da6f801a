"""The model: the frozen CLIP, RMAdapter, the bank of adapters, the artifact file."""
