-- Removes buckets of the aggregates, from the totals too.
-- ARGV: the starts of the buckets.
-- include: fields
-- include: counts
-- include: sums
local P = KEYS[1]
for _, start in ipairs(ARGV) do
  for field, cell in in_pairs(redis.call('HGETALL', P .. ':c:' .. start)) do
    add_counts(P .. ':c:all', total_of(field), cell, -1)
  end
  for field, cell in in_pairs(redis.call('HGETALL', P .. ':s:' .. start)) do
    add_sums(P .. ':s:all', total_of(field), cell, -1)
  end
  redis.call('DEL', P .. ':c:' .. start, P .. ':s:' .. start)
  redis.call('ZREM', P .. ':cells', start)
end
return 1
