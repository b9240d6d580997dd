-- Cells of counts, packed as gateway.state.redis.codec.pack_counts does.

-- Adds sign times a packed histogram (gateway.record.histogram) to a table of counts by bucket.
local function add_histogram(counts, packed, sign)
  local at = 1
  while at <= #packed do
    local i, n
    i, n, at = struct.unpack('<I2I4', packed, at)
    counts[i] = (counts[i] or 0) + n * sign
  end
end

local function pack_histogram(counts)
  local numbers, out = {}, {}
  for i, n in pairs(counts) do
    if n > 0 then numbers[#numbers + 1] = i end
  end
  table.sort(numbers)
  for _, i in ipairs(numbers) do
    local n = counts[i]
    while n > 4294967295 do -- a bucket that outgrows its four bytes is written several times
      out[#out + 1] = struct.pack('<I2I4', i, 4294967295)
      n = n - 4294967295
    end
    out[#out + 1] = struct.pack('<I2I4', i, n)
  end
  return table.concat(out)
end

-- The packed histogram a + sign * b.
local function add_histograms(a, b, sign)
  if b == '' then return a end
  if a == '' and sign > 0 then return b end
  local counts = {}
  add_histogram(counts, a, 1)
  add_histogram(counts, b, sign)
  return pack_histogram(counts)
end

-- The highest bit of the length; no histogram is 2 GiB long.
local WITH_UNSEEN = 2147483648

-- Its numbers; the length of the latency histogram, where that begins, and the number of unseen ones.
local function read_counts(cell)
  local a, s, e, f, x, l, at = struct.unpack('<i8i8i8i8dI4', cell)
  if l < WITH_UNSEEN then return a, s, e, f, x, l, at, 0 end
  local u
  u, at = struct.unpack('<i8', cell, at)
  return a, s, e, f, x, l - WITH_UNSEEN, at, u
end

local function pack_counts(a, s, e, f, x, u, latency, gateway)
  local length = #latency
  if u ~= 0 then
    latency, length = struct.pack('<i8', u) .. latency, length + WITH_UNSEEN
  end
  return struct.pack('<i8i8i8i8dI4', a, s, e, f, x, length) .. latency .. gateway
end

-- The cell old + sign * delta; nil if it counts no request, and expects less than half a one, which is what adding
-- doubles leaves.
local function merge_counts(old, delta, sign)
  if not old and sign > 0 then return delta end
  old = old or struct.pack('<i8i8i8i8dI4', 0, 0, 0, 0, 0, 0)
  local a1, s1, e1, f1, x1, l1, at1, u1 = read_counts(old)
  local a2, s2, e2, f2, x2, l2, at2, u2 = read_counts(delta)
  local a, s = a1 + sign * a2, s1 + sign * s2
  if sign < 0 and a == 0 and s == 0 and x1 - x2 < 0.5 then return nil end
  local latency = add_histograms(string.sub(old, at1, at1 + l1 - 1), string.sub(delta, at2, at2 + l2 - 1), sign)
  local gateway = add_histograms(string.sub(old, at1 + l1), string.sub(delta, at2 + l2), sign)
  return pack_counts(a, s, e1 + sign * e2, f1 + sign * f2, x1 + sign * x2, u1 + sign * u2, latency, gateway)
end

local function add_counts(key, field, delta, sign)
  local cell = merge_counts(redis.call('HGET', key, field), delta, sign)
  if cell then
    redis.call('HSET', key, field, cell)
  else
    redis.call('HDEL', key, field)
  end
end
