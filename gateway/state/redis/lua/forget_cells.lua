-- Removes buckets of the aggregates, from the totals too.
-- ARGV: the starts of the buckets.
-- include: fields
-- include: counts
-- include: sums
-- include: changes
local P, starts = KEYS[1], {}
for _, start in ipairs(ARGV) do
  for letter, add in pairs({c = add_counts, s = add_sums}) do
    local key = P .. ':' .. letter .. ':' .. start
    for field, cell in in_pairs(redis.call('HGETALL', key)) do
      add(P .. ':' .. letter .. ':all', total_of(field), cell, -1)
      redis.call('HDEL', key, field) -- with it: a damaged cell ends the script
    end
  end
  redis.call('ZREM', P .. ':cells', start)
  starts[start] = true
end
note_changes(P, starts)
return 1
