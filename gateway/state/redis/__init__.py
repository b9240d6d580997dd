"""The shared store, for many replicas: one Redis, or a Redis Cluster."""

from gateway.state.redis.store import RedisStore

__all__ = ["RedisStore"]
