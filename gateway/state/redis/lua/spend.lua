-- Takes requests out of a token bucket. Returns the level, and how many owners came in the last two seconds.
-- ARGV: key, rate, burst, spent, owner.
local key = KEYS[1] .. ':rate:' .. ARGV[1]
local rate, burst = tonumber(ARGV[2]), tonumber(ARGV[3])
-- The server's clock: the replicas' may differ by more than a bucket takes to fill.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local kept = redis.call('HMGET', key, 'level', 'then')
local level = burst
if kept[1] then level = math.min(burst, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * rate) end
-- Below zero: what several processes spent before they settled is paid back, at most a burst.
level = math.max(level - tonumber(ARGV[4]), -burst)
redis.call('HSET', key, 'level', string.format('%.6f', level), 'then', string.format('%.6f', now))
-- By then the bucket is full from the deepest debt, as a missing one is.
redis.call('EXPIRE', key, math.ceil(2 * burst / rate) + 60)
local owners = key .. ':owners'
redis.call('ZREMRANGEBYSCORE', owners, '-inf', now - 2)
redis.call('ZADD', owners, now, ARGV[5])
redis.call('EXPIRE', owners, 60)
return {string.format('%.6f', level), redis.call('ZCARD', owners)}
