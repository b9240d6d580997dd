"""The Lua scripts: each is one atomic step on the keys of one route (or of none), which share a slot.

``KEYS[1]`` is the prefix that all keys of the step begin with; it carries the hash tag.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

from gateway.state.redis.unit_scripts import UNITS


class Script:
    """Lua source and the digest that a server knows it by."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = sha1(source.encode(), usedforsecurity=False).hexdigest()


_LIBRARY: Final = """
local P = KEYS[1]

-- Packed histograms (gateway.record.histogram): a + sign * b.
local function histogram(a, b, sign)
  if b == '' then return a end
  if a == '' and sign > 0 then return b end
  local counts, numbers, out = {}, {}, {}
  for _, term in ipairs({{a, 1}, {b, sign}}) do
    local part, factor, at = term[1], term[2], 1
    while at <= #part do
      local i, n
      i, n, at = struct.unpack('<I2I4', part, at)
      counts[i] = (counts[i] or 0) + n * factor
    end
  end
  for i, n in pairs(counts) do
    if n > 0 then numbers[#numbers + 1] = i end
  end
  table.sort(numbers)
  for _, i in ipairs(numbers) do
    local n = counts[i]
    while n > 4294967295 do
      out[#out + 1] = struct.pack('<I2I4', i, 4294967295)
      n = n - 4294967295
    end
    out[#out + 1] = struct.pack('<I2I4', i, n)
  end
  return table.concat(out)
end

-- Adds a cell of counts (gateway.state.redis.codec) to a field of a hash; sign -1 takes it away.
local function add_counts(key, field, delta, sign)
  local old = redis.call('HGET', key, field)
  if not old and sign > 0 then
    redis.call('HSET', key, field, delta)
    return
  end
  old = old or struct.pack('<i8i8i8i8dI4', 0, 0, 0, 0, 0, 0)
  local a1, s1, e1, f1, x1, l1, at1 = struct.unpack('<i8i8i8i8dI4', old)
  local a2, s2, e2, f2, x2, l2, at2 = struct.unpack('<i8i8i8i8dI4', delta)
  local latency = histogram(string.sub(old, at1, at1 + l1 - 1), string.sub(delta, at2, at2 + l2 - 1), sign)
  local gateway = histogram(string.sub(old, at1 + l1), string.sub(delta, at2 + l2), sign)
  local a, s = a1 + sign * a2, s1 + sign * s2
  if sign < 0 and a == 0 and s == 0 then
    redis.call('HDEL', key, field)
    return
  end
  redis.call('HSET', key, field, struct.pack('<i8i8i8i8dI4', a, s,
    e1 + sign * e2, f1 + sign * f2, x1 + sign * x2, #latency) .. latency .. gateway)
end

-- Exact sums (gateway.state.exact): adds x to the list of parts.
local function grow(parts, x)
  local kept, number = 0, #parts
  for k = 1, number do
    local y = parts[k]
    if math.abs(x) < math.abs(y) then x, y = y, x end
    local high = x + y
    local low = y - (high - x)
    if low ~= 0 then
      kept = kept + 1
      parts[kept] = low
    end
    x = high
  end
  for k = number, kept + 1, -1 do parts[k] = nil end
  if x ~= 0 then parts[kept + 1] = x end
end

local function read_sums(value)
  local sums = {count = 0, total = {}, squares = {}}
  if value then
    local count, totals, squares, at = struct.unpack('<i8I2I2', value)
    sums.count = count
    for k = 1, totals do sums.total[k], at = struct.unpack('<d', value, at) end
    for k = 1, squares do sums.squares[k], at = struct.unpack('<d', value, at) end
  end
  return sums
end

local function write_sums(key, field, sums)
  local out = {struct.pack('<i8I2I2', sums.count, #sums.total, #sums.squares)}
  for _, part in ipairs(sums.total) do out[#out + 1] = struct.pack('<d', part) end
  for _, part in ipairs(sums.squares) do out[#out + 1] = struct.pack('<d', part) end
  redis.call('HSET', key, field, table.concat(out))
end

local function add_sums(key, field, value, sign)
  local sums, other = read_sums(redis.call('HGET', key, field)), read_sums(value)
  sums.count = sums.count + sign * other.count
  for _, part in ipairs(other.total) do grow(sums.total, sign * part) end
  for _, part in ipairs(other.squares) do grow(sums.squares, sign * part) end
  write_sums(key, field, sums)
end

local function total_of(field)
  return '-1' .. string.sub(field, string.find(field, ':', 1, true), -1)
end

-- Sums over rows of features (gateway.state.linear).
local function read_linear(value, width)
  local cell = {count = 0, width = width, products = {}, rewards = {}}
  if not value then
    for k = 1, width * (width + 1) / 2 do cell.products[k] = 0 end
    for k = 1, width + 1 do cell.rewards[k] = {} end
    return cell
  end
  local at
  cell.count, cell.width, at = struct.unpack('<i8B', value)
  -- All at once: with a call for each the whole script took twice as long (32 columns).
  local number = cell.width * (cell.width + 1) / 2
  cell.products = {struct.unpack('<' .. string.rep('d', number), value, at)}
  at = table.remove(cell.products)
  for k = 1, cell.width + 1 do
    local number, parts = string.byte(value, at), {}
    at = at + 1
    for n = 1, number do parts[n], at = struct.unpack('<d', value, at) end
    cell.rewards[k] = parts
  end
  return cell
end

local function write_linear(key, field, cell)
  local products = struct.pack('<' .. string.rep('d', #cell.products), unpack(cell.products))
  local out = {struct.pack('<i8B', cell.count, cell.width), products}
  for _, parts in ipairs(cell.rewards) do
    out[#out + 1] = string.char(#parts)
    for _, part in ipairs(parts) do out[#out + 1] = struct.pack('<d', part) end
  end
  redis.call('HSET', key, field, table.concat(out))
end

-- Adds a row (gateway.record.context) with its reward; sign -1 takes it away.
local function add_row(cell, context, value, sign)
  local entries, at = {{0, 1}}, 10
  while at <= #context do
    local column, steps
    column, steps, at = struct.unpack('>Bi2', context, at)
    entries[#entries + 1] = {column, steps / 4096}
  end
  cell.count = cell.count + sign
  for k, one in ipairs(entries) do
    local i, x = one[1], one[2]
    local start = i * cell.width - i * (i - 1) / 2 - i + 1
    for n = k, #entries do
      local place = start + entries[n][1]
      cell.products[place] = cell.products[place] + sign * (x * entries[n][2])
    end
    grow(cell.rewards[i + 1], sign * (value * x))
  end
  grow(cell.rewards[cell.width + 1], sign * (value * value))
end

local function add_linear(key, field, value, sign)
  local other = read_linear(value)
  local cell = read_linear(redis.call('HGET', key, field), other.width)
  cell.count = cell.count + sign * other.count
  for k, product in ipairs(other.products) do cell.products[k] = cell.products[k] + sign * product end
  for k, parts in ipairs(other.rewards) do
    for _, part in ipairs(parts) do grow(cell.rewards[k], sign * part) end
  end
  write_linear(key, field, cell)
end

local function in_pairs(list)
  local k = -1
  return function()
    k = k + 2
    return list[k], list[k + 1]
  end
end
"""

APPEND: Final = Script(
    _LIBRARY
    + """
-- ARGV: number of pages expected ('' any), first ms, last ms, page, number of blocks,
-- block key, field and bits for each; then start, field and delta of each cell.
-- Returns the number of pages so far, negative when some decision may be there already.
local number = tonumber(redis.call('GET', P .. ':pages') or '0')
local sure = ARGV[1] ~= ''
if sure and tonumber(ARGV[1]) ~= number then return -number - 1 end
local blocks, at = tonumber(ARGV[5]), 6
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
for _, one in ipairs(merged) do
  redis.call('HSET', one[1], one[2], one[3])
  redis.call('EXPIRE', one[1], 172800)
end
number = redis.call('INCR', P .. ':pages')
redis.call('HSET', P .. ':page', number, ARGV[4])
redis.call('ZADD', P .. ':first', ARGV[2], number)
redis.call('ZADD', P .. ':last', ARGV[3], number)
redis.call('ZADD', P .. ':small', ARGV[3], number)
while at <= #ARGV do
  local start, field, delta = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  redis.call('ZADD', P .. ':cells', start, start)
  add_counts(P .. ':c:' .. start, field, delta, 1)
  add_counts(P .. ':c:all', total_of(field), delta, 1)
  at = at + 3
end
return number
"""
)

REWARD: Final = Script(
    _LIBRARY
    + UNITS
    + """
-- ARGV: '1' for a replay; then hour, field, decision, metric, row and start of each reward, of its features
-- (or '' thrice) the packed row, start and cell, and epoch, name of the cell, unit and '1' for a rescued
-- decision. A row begins as gateway.state.redis.codec says.
-- Returns a letter for each: a(ccepted), d(uplicate), u(pdated).
local replay, results, cells, order, touched = ARGV[1] == '1', {}, {}, {}, false
local rows, rows_order = {}, {}

local function cell(key, field)
  local name = key .. ' ' .. field
  if not cells[name] then
    cells[name] = {key, field, read_sums(redis.call('HGET', key, field))}
    order[#order + 1] = name
  end
  return cells[name][3]
end

local function count(start, field, value, sign)
  for key, name in in_pairs({P .. ':s:' .. start, field, P .. ':s:all', total_of(field)}) do
    local sums = cell(key, name)
    sums.count = sums.count + sign
    grow(sums.total, sign * value)
    grow(sums.squares, sign * (value * value))
  end
  redis.call('ZADD', P .. ':cells', start, start)
end

local function count_row(at, value, sign)
  local context, start, field = ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
  if context == '' then return end
  for _, bucket in ipairs({start, 'all'}) do
    local name = bucket .. ' ' .. field
    if not rows[name] then
      local key = P .. ':l:' .. bucket
      rows[name] = {key, field, read_linear(redis.call('HGET', key, field), string.byte(context, 9))}
      rows_order[#rows_order + 1] = name
    end
    add_row(rows[name][3], context, value, sign)
  end
  redis.call('ZADD', P .. ':linear', start, start)
end

local function read_row(row)
  local one, at, flags, size = {}, nil, nil, nil
  flags, one.value, one.counts, one.counted, one.time, at = struct.unpack('<BdBdd', row)
  one.has, one.period = flags % 2, ''
  if flags >= 2 then
    size, at = struct.unpack('<I2', row, at)
    one.period = string.sub(row, at, at + size - 1)
    one.decided = struct.unpack('<d', row, at + size)
  end
  if one.counts == 0 then one.counted = nil end
  return one
end

-- Moves the sums for a reward that counts under a period, by a value and its sign.
local function move(place, period, value, sign)
  local name = place.epoch .. ':' .. place.name
  count(place.start, period == '' and name or name .. '|sticky', value, sign)
  if place.rescued then count(place.start, name .. '|rescued', value, sign) end
end

for at = 2, #ARGV, 13 do
  local hour, field, decision, metric = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local row, unit = ARGV[at + 4], ARGV[at + 11]
  local place = {start = tonumber(ARGV[at + 5]), epoch = ARGV[at + 9], name = ARGV[at + 10],
    rescued = ARGV[at + 12] == '1'}
  local key = P .. ':rewards:' .. hour
  local new, before, period = read_row(row), nil, ''
  local old = redis.call('HGET', key, field)
  local result = 'a'
  if old then
    local was = read_row(old)
    if (was.has == new.has and (new.has == 0 or was.value == new.value))
        or (replay and new.time < was.time) then
      result = 'd'
    else
      result, before, period = 'u', was.counted, was.period
      if before then
        move(place, period, before, -1)
        count_row(at, before, -1)
      end
      if period ~= new.period then
        if before and period ~= '' then observe(count, unit, period, place, was.decided, before, nil) end
        before = nil
      end
    end
  else
    redis.call('ZADD', P .. ':reward_hours', hour, hour)
    local metrics = redis.call('HGET', key, decision)
    redis.call('HSET', key, decision, metrics and (metrics .. '\\0' .. metric) or metric)
  end
  if result ~= 'd' then
    touched = true
    redis.call('HSET', key, field, row)
    if new.counted then
      move(place, new.period, new.counted, 1)
      count_row(at, new.counted, 1)
    end
    if new.period ~= '' and (before or new.counted) then
      observe(count, unit, new.period, place, new.decided, before, new.counted)
    end
  end
  results[#results + 1] = result
end
for _, name in ipairs(order) do
  write_sums(cells[name][1], cells[name][2], cells[name][3])
end
for _, name in ipairs(rows_order) do
  write_linear(rows[name][1], rows[name][2], rows[name][3])
end
if touched then redis.call('INCR', P .. ':changed') end
return table.concat(results)
"""
)

SHADOWED: Final = Script(
    """
-- ARGV: hour, field, decision, shadow, row, start, compared, agreeing and errors of each.
local P = KEYS[1]
for at = 1, #ARGV, 9 do
  local key, decision, shadow = P .. ':shadowed:' .. ARGV[at], ARGV[at + 2], ARGV[at + 3]
  if redis.call('HSETNX', key, ARGV[at + 1], ARGV[at + 4]) == 1 then
    redis.call('ZADD', P .. ':shadowed_hours', ARGV[at], ARGV[at])
    local shadows = redis.call('HGET', key, decision)
    redis.call('HSET', key, decision, shadows and (shadows .. '\\0' .. shadow) or shadow)
    redis.call('ZADD', P .. ':shadow_cells', ARGV[at + 5], ARGV[at + 5])
    for _, start in ipairs({ARGV[at + 5], 'all'}) do
      local cell = P .. ':a:' .. start
      redis.call('HINCRBY', cell, shadow .. '\\0answers', 1)
      redis.call('HINCRBY', cell, shadow .. '\\0compared', ARGV[at + 6])
      redis.call('HINCRBY', cell, shadow .. '\\0agreeing', ARGV[at + 7])
      redis.call('HINCRBY', cell, shadow .. '\\0errors', ARGV[at + 8])
    end
  end
end
return 1
"""
)

FOLD: Final = Script(
    _LIBRARY
    + """
-- ARGV: coarse start, number of fine starts, these; then epoch and the one it is counted under, in pairs.
local coarse, number, under = ARGV[1], tonumber(ARGV[2]), {}
for k = 3 + number, #ARGV, 2 do under[ARGV[k]] = ARGV[k + 1] end
for k = 3, 2 + number do
  for letter, add in pairs({c = add_counts, s = add_sums}) do
    local key, into = P .. ':' .. letter .. ':' .. ARGV[k], P .. ':' .. letter .. ':' .. coarse
    for field, value in in_pairs(redis.call('HGETALL', key)) do
      local colon = string.find(field, ':', 1, true)
      local epoch = string.sub(field, 1, colon - 1)
      local new = (under[epoch] or epoch) .. string.sub(field, colon)
      if key ~= into or new ~= field then
        redis.call('HDEL', key, field)
        add(into, new, value, 1)
      end
    end
  end
  redis.call('ZREM', P .. ':cells', ARGV[k])
end
redis.call('ZADD', P .. ':cells', coarse, coarse)
return 1
"""
)

FORGET_CELLS: Final = Script(
    _LIBRARY
    + """
-- ARGV: starts of buckets to forget; the totals lose them too.
for _, start in ipairs(ARGV) do
  for field, value in in_pairs(redis.call('HGETALL', P .. ':c:' .. start)) do
    add_counts(P .. ':c:all', total_of(field), value, -1)
  end
  for field, value in in_pairs(redis.call('HGETALL', P .. ':s:' .. start)) do
    add_sums(P .. ':s:all', total_of(field), value, -1)
  end
  redis.call('DEL', P .. ':c:' .. start, P .. ':s:' .. start)
  redis.call('ZREM', P .. ':cells', start)
end
return 1
"""
)

FOLD_LINEAR: Final = Script(
    _LIBRARY
    + """
-- ARGV: where to ('' to forget, the totals too), then the starts of the buckets.
for k = 2, #ARGV do
  local key = P .. ':l:' .. ARGV[k]
  for field, value in in_pairs(redis.call('HGETALL', key)) do
    if ARGV[1] ~= '' then
      add_linear(P .. ':l:' .. ARGV[1], field, value, 1)
    else
      add_linear(P .. ':l:all', field, value, -1)
    end
  end
  redis.call('DEL', key)
  redis.call('ZREM', P .. ':linear', ARGV[k])
end
if ARGV[1] ~= '' then redis.call('ZADD', P .. ':linear', ARGV[1], ARGV[1]) end
return 1
"""
)

FOLD_SHADOWS: Final = Script(
    """
-- ARGV: where to ('' to forget, the totals too), then the starts of the buckets.
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
"""
)

REPLACE_PAGES: Final = Script(
    """
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
"""
)

PUBLISH: Final = Script(
    """
-- ARGV: epoch, the allocation, the ensemble ('' for none), 'restored' for one that the store has lost (it may be
-- any number above the newest). The ensemble before is kept too: a follower may be about to read it.
local P, epoch = KEYS[1], tonumber(ARGV[1])
local newest = tonumber(redis.call('GET', P .. ':epoch') or epoch - 1)
if newest >= epoch or (newest + 1 ~= epoch and ARGV[4] ~= 'restored') then return 0 end
redis.call('SET', P .. ':epoch', ARGV[1])
redis.call('HSET', P .. ':allocations', ARGV[1], ARGV[2])
for _, old in ipairs(redis.call('HKEYS', P .. ':ensembles')) do
  if tonumber(old) < epoch - 1 then redis.call('HDEL', P .. ':ensembles', old) end
end
if ARGV[3] ~= '' then redis.call('HSET', P .. ':ensembles', ARGV[1], ARGV[3]) end
redis.call('INCR', P .. ':changed')
return 1
"""
)

SAVE: Final = Script(
    """
-- ARGV: document, expected version, text, 'restored' for one that the store has lost (it may have any lower version).
local P, key = KEYS[1], KEYS[1] .. ':documents'
local stored = redis.call('HGET', key, ARGV[1])
local version, expected = tonumber(stored and string.match(stored, '^%d+') or '0'), tonumber(ARGV[2])
if version > expected or (version ~= expected and ARGV[4] ~= 'restored') then return 0 end
redis.call('HSET', key, ARGV[1], string.format('%d', expected + 1) .. '\\n' .. ARGV[3])
redis.call('INCR', P .. ':changed')
return 1
"""
)

ADD_REVISION: Final = Script(
    """
-- ARGV: the revision without its number.
local P = KEYS[1]
local number = redis.call('INCR', P .. ':revision')
redis.call('HSET', P .. ':revisions', number, ARGV[1])
redis.call('INCR', P .. ':changed')
return number
"""
)

RESTORE_REVISIONS: Final = Script(
    """
-- ARGV: number and revision of each that the caller remembers, newest first. Returns 1 if the newest was lost.
local P = KEYS[1]
if tonumber(redis.call('GET', P .. ':revision') or '0') >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', P .. ':revision', ARGV[1])
for k = 1, #ARGV, 2 do redis.call('HSETNX', P .. ':revisions', ARGV[k], ARGV[k + 1]) end
redis.call('INCR', P .. ':changed')
return 1
"""
)

SECRETS: Final = Script(
    """
-- ARGV: name, a new secret, then those that the caller has seen. Returns all, the one to use first.
local key, kept = KEYS[1] .. ':secrets:' .. ARGV[1], {}
for _, secret in ipairs(redis.call('LRANGE', key, 0, -1)) do kept[secret] = true end
for k = 3, #ARGV do
  if not kept[ARGV[k]] then redis.call('RPUSH', key, ARGV[k]) end
end
if #ARGV == 2 and next(kept) == nil then redis.call('RPUSH', key, ARGV[2]) end
return redis.call('LRANGE', key, 0, -1)
"""
)

ADD_EVENT: Final = Script(
    """
-- ARGV: time, kind, route, data, the highest number that the caller has seen.
local P = KEYS[1]
if tonumber(redis.call('GET', P .. ':event') or '0') < tonumber(ARGV[5]) then
  redis.call('SET', P .. ':event', ARGV[5])
end
local number = redis.call('INCR', P .. ':event')
redis.call('XADD', P .. ':events', string.format('%d-1', number),
  'time', ARGV[1], 'kind', ARGV[2], 'route', ARGV[3], 'data', ARGV[4])
return number
"""
)

LEASE: Final = Script(
    """
-- ARGV: name, owner, until, now. Returns the fencing number, or 0.
local key = KEYS[1] .. ':lease:' .. ARGV[1]
local held = redis.call('HMGET', key, 'owner', 'until', 'fence')
local fence = 1
if held[3] then
  if tonumber(held[2]) <= tonumber(ARGV[4]) then
    fence = tonumber(held[3]) + 1
  elseif held[1] == ARGV[2] then
    fence = tonumber(held[3])
  else
    return 0
  end
end
redis.call('HSET', key, 'owner', ARGV[2], 'until', ARGV[3], 'fence', fence)
return fence
"""
)

RELEASE: Final = Script(
    """
-- ARGV: name, owner. The fencing number stays.
local key = KEYS[1] .. ':lease:' .. ARGV[1]
if redis.call('HGET', key, 'owner') == ARGV[2] then
  redis.call('HSET', key, 'owner', '', 'until', '0')
end
return 1
"""
)
