"""Models in a process of their own, one per GPU: batches go there through shared memory, several in flight."""
