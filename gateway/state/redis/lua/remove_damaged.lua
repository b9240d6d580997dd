-- Removes a field of a hash if it still has the damaged value.
-- ARGV: the name of the hash, field, value.
local key = KEYS[1] .. ':' .. ARGV[1]
if redis.call('HGET', key, ARGV[2]) == ARGV[3] then redis.call('HDEL', key, ARGV[2]) end
