-- Folds fine buckets of the aggregates into a coarse one.
-- ARGV: coarse start, number of fine starts, these; then epoch and the one it is counted under, in pairs.
-- include: fields
-- include: counts
-- include: sums
-- include: changes
local P = KEYS[1]
local coarse, number, under = ARGV[1], tonumber(ARGV[2]), {}
for k = 3 + number, #ARGV, 2 do under[ARGV[k]] = ARGV[k + 1] end
redis.call('ZADD', P .. ':cells', coarse, coarse)
for k = 3, 2 + number do
  for letter, add in pairs({c = add_counts, s = add_sums}) do
    local key, into = P .. ':' .. letter .. ':' .. ARGV[k], P .. ':' .. letter .. ':' .. coarse
    for field, cell in in_pairs(redis.call('HGETALL', key)) do
      local colon = string.find(field, ':', 1, true)
      local epoch = string.sub(field, 1, colon - 1)
      local new = (under[epoch] or epoch) .. string.sub(field, colon)
      -- The coarse bucket may itself be among the fine ones; adding a cell to itself would double it.
      if key ~= into or new ~= field then
        add(into, new, cell, 1)
        redis.call('HDEL', key, field)
      end
    end
  end
  if ARGV[k] ~= coarse then redis.call('ZREM', P .. ':cells', ARGV[k]) end
end
note_changes(P, {[coarse] = true})
return 1
