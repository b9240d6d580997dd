"""Plans and shares: which variant gets which part of the traffic."""
