-- Folds buckets of sums over rows of features into a coarse one, or removes them, from the totals too.
-- ARGV: the coarse start ('' to remove), then the starts of the buckets.
-- include: fields
-- include: linear
local P = KEYS[1]
if ARGV[1] ~= '' then redis.call('ZADD', P .. ':linear', ARGV[1], ARGV[1]) end
for k = 2, #ARGV do
  local key = P .. ':l:' .. ARGV[k]
  for field, cell in in_pairs(redis.call('HGETALL', key)) do
    if ARGV[1] ~= '' then
      add_linear(P .. ':l:' .. ARGV[1], field, cell, 1)
    else
      add_linear(P .. ':l:all', field, cell, -1)
    end
    redis.call('HDEL', key, field)
  end
  redis.call('DEL', key)
  redis.call('ZREM', P .. ':linear', ARGV[k])
end
return 1
