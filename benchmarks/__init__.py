"""What the gateway costs, side by side with others on the same machine in the same minute."""
