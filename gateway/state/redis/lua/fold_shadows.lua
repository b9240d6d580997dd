-- Folds buckets of shadow responses into a coarse one, or removes them, from the totals too.
-- ARGV: the coarse start ('' to remove), then the starts of the buckets.
local P = KEYS[1]
for k = 2, #ARGV do
  local key = P .. ':a:' .. ARGV[k]
  local fields = redis.call('HGETALL', key)
  redis.call('DEL', key)
  redis.call('ZREM', P .. ':shadow_cells', ARGV[k])
  for i = 1, #fields, 2 do
    if ARGV[1] ~= '' then
      redis.call('HINCRBY', P .. ':a:' .. ARGV[1], fields[i], fields[i + 1])
    elseif redis.call('HINCRBY', P .. ':a:all', fields[i], -fields[i + 1]) == 0 then
      redis.call('HDEL', P .. ':a:all', fields[i])
    end
  end
end
if ARGV[1] ~= '' then redis.call('ZADD', P .. ':shadow_cells', ARGV[1], ARGV[1]) end
return 1
