-- Makes the totals of a route again, of its buckets.
-- include: fields
-- include: counts
-- include: sums
-- include: linear
local P = KEYS[1]

local function rebuild(letter, index, name, merge, pack)
  local totals = {}
  for _, start in ipairs(redis.call('ZRANGE', P .. index, 0, -1)) do
    for field, cell in in_pairs(redis.call('HGETALL', P .. ':' .. letter .. ':' .. start)) do
      totals[name(field)] = merge(totals[name(field)], cell)
    end
  end
  redis.call('DEL', P .. ':' .. letter .. ':all')
  for field, total in pairs(totals) do redis.call('HSET', P .. ':' .. letter .. ':all', field, pack(total)) end
end

local function itself(x) return x end

rebuild('c', ':cells', total_of, function(total, cell) return merge_counts(total, cell, 1) end, itself)
rebuild('s', ':cells', total_of, function(total, cell)
  total = total or read_sums()
  merge_sums(total, read_sums(cell), 1)
  return total
end, pack_sums)
rebuild('l', ':linear', itself, function(total, cell)
  local other = read_linear(cell)
  total = total or read_linear(nil, other.width)
  merge_linear(total, other, 1)
  return total
end, pack_linear)
return 1
