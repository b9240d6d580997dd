-- Replaces pages of the record by others (or by none), unless one of them is gone already.
-- ARGV: number of pages to take out, these; then first ms, last ms and page of each new one.
local P = KEYS[1]
local out = tonumber(ARGV[1])
for k = 2, out + 1 do
  if redis.call('HEXISTS', P .. ':page', ARGV[k]) == 0 then return 0 end
end
for k = 2, out + 1 do
  redis.call('HDEL', P .. ':page', ARGV[k])
  for _, index in ipairs({':first', ':last', ':small'}) do redis.call('ZREM', P .. index, ARGV[k]) end
end
if out > 0 then redis.call('INCR', P .. ':moved') end
for k = out + 2, #ARGV, 3 do
  local number = redis.call('INCR', P .. ':pages')
  redis.call('HSET', P .. ':page', number, ARGV[k + 2])
  redis.call('ZADD', P .. ':first', ARGV[k], number)
  redis.call('ZADD', P .. ':last', ARGV[k + 1], number)
end
return 1
