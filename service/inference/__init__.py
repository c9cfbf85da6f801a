"""From pictures and names to scores: queue, device, backends, tiers of adapters."""
