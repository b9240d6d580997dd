-- Adds one page of outcomes and what it adds to the aggregates.
-- ARGV: number of pages expected ('' for any), first ms, last ms, page, numbers of blocks and of slices of scattered
-- marks (gateway.state.paging.Marks); key, field and bits of each block; key, field and marks of each slice; then
-- letter, start, field and cell to add of each: c(ounts) or s(ums).
-- Returns the number of pages so far, negative if some decision may be there already.
-- include: fields
-- include: counts
-- include: sums
-- include: staged
-- include: changes
-- include: number
local P = KEYS[1]
local number = tonumber(number_of(P, 'pages', 'page'))
local sure = ARGV[1] ~= ''
-- Another page came since the caller looked: it may hold the same decisions.
if sure and tonumber(ARGV[1]) ~= number then return -number - 1 end
local blocks, slices, at = tonumber(ARGV[5]), tonumber(ARGV[6]), 7
local merged = {}
for k = 1, blocks do
  local key, field, bits = P .. ':seen:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local old = redis.call('HGET', key, field)
  if old then
    local out = {}
    for i = 1, 32 do
      local a, b = string.byte(old, i), string.byte(bits, i)
      if not sure and bit.band(a, b) ~= 0 then return -number - 1 end
      out[i] = string.char(bit.bor(a, b))
    end
    bits = table.concat(out)
  end
  merged[k] = {key, field, bits}
  at = at + 3
end

local MARK = 8 -- bytes

-- Whether one of the marks is among the old ones.
local function any_in(marks, old)
  for k = 1, #marks, MARK do
    local mark, from = string.sub(marks, k, k + MARK - 1), 1
    repeat
      local found = string.find(old, mark, from, true)
      -- Bytes that are equal across two marks are no mark.
      if found and found % MARK == 1 then return true end
      from = (found or 0) + 1
    until not found
  end
  return false
end

for k = blocks + 1, blocks + slices do
  local key, field, marks = P .. ':seen:' .. ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local old = redis.call('HGET', key, field) or ''
  if not sure and any_in(marks, old) then return -number - 1 end
  merged[k] = {key, field, old .. marks}
  at = at + 3
end

local function with_sums(old, cell)
  local sums = read_sums(old)
  merge_sums(sums, read_sums(cell), 1)
  return pack_sums(sums)
end

local function add(letter, key, field, cell)
  local old = hget(key, field)
  stage(key, field, letter == 'c' and merge_counts(old, cell, 1) or with_sums(old, cell))
end

local starts = {}
while at <= #ARGV do
  local letter, start, field, cell = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local cells = P .. ':' .. letter .. ':'
  starts[start] = true
  add(letter, cells .. start, field, cell)
  add(letter, cells .. 'all', total_of(field), cell)
  at = at + 4
end
-- Everything has been read.
for _, one in ipairs(merged) do
  redis.call('HSET', one[1], one[2], one[3])
  redis.call('EXPIRE', one[1], 172800)
end
number = redis.call('INCR', P .. ':pages')
redis.call('HSET', P .. ':page', number, ARGV[4])
redis.call('ZADD', P .. ':first', ARGV[2], number)
redis.call('ZADD', P .. ':last', ARGV[3], number)
redis.call('ZADD', P .. ':small', ARGV[3], number)
for start in pairs(starts) do redis.call('ZADD', P .. ':cells', start, start) end
note_changes(P, starts)
write_staged()
return number
