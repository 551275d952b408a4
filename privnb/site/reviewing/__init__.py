"""What people decide at a site: what waits for them, and what they signed."""
