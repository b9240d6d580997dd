-- Makes every reader read all buckets of the aggregates again.
-- include: changes
redis.call('INCRBY', KEYS[1] .. ':cells_version', KEPT_CHANGES + 1)
return 1
