"""Ways to a device."""
