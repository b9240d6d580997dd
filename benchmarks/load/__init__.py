"""What makes the load: wrk for closed loops, a raw protocol of our own for fixed rates."""
