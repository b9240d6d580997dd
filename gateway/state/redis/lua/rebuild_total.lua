-- Makes one total of a route again, of its cells.
-- ARGV: the letter of the cells, the name of the index of their buckets, the field of the total.
-- include: fields
-- include: counts
-- include: sums
-- include: linear
local P, letter, index, wanted = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local total

local function add_counts_of(cell)
  total = total or {0, 0, 0, 0, 0, 0, {}, {}}
  local a, s, e, f, x, l, at, u = read_counts(cell)
  for k, n in ipairs({a, s, e, f, x, u}) do total[k] = total[k] + n end
  add_histogram(total[7], string.sub(cell, at, at + l - 1), 1)
  add_histogram(total[8], string.sub(cell, at + l), 1)
end

local function add_sums_of(cell)
  total = total or read_sums()
  merge_sums(total, read_sums(cell), 1)
end

local function add_linear_of(cell)
  local sums = read_linear(cell)
  total = total or read_linear(nil, sums.width)
  merge_linear(total, sums, 1)
end

local add = ({c = add_counts_of, s = add_sums_of, l = add_linear_of})[letter]
for _, start in ipairs(redis.call('ZRANGE', P .. ':' .. index, 0, -1)) do
  for field, cell in in_pairs(redis.call('HGETALL', P .. ':' .. letter .. ':' .. start)) do
    if (letter == 'l' and field or total_of(field)) == wanted then add(cell) end
  end
end
local key = P .. ':' .. letter .. ':all'
if not total then
  redis.call('HDEL', key, wanted)
elseif letter == 'c' then
  total[7], total[8] = pack_histogram(total[7]), pack_histogram(total[8])
  redis.call('HSET', key, wanted, pack_counts(unpack(total)))
else
  redis.call('HSET', key, wanted, (letter == 's' and pack_sums or pack_linear)(total))
end
return 1
