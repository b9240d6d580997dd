"""From the hot path and from clients to the store: outcomes, rewards, and their export."""
