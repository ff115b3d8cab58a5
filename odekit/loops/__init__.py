"""The two loops: adaptive over lanes, and a scan over rows."""
