-- Cells of reward sums, packed as gateway.state.redis.codec.pack_sums does.
-- include: exact

local function read_sums(cell)
  local sums = {count = 0, total = {}, squares = {}}
  if cell then
    local count, totals, squares, at = struct.unpack('<i8I2I2', cell)
    sums.count = count
    for k = 1, totals do sums.total[k], at = struct.unpack('<d', cell, at) end
    for k = 1, squares do sums.squares[k], at = struct.unpack('<d', cell, at) end
  end
  return sums
end

local function pack_sums(sums)
  local out = {struct.pack('<i8I2I2', sums.count, #sums.total, #sums.squares)}
  for _, part in ipairs(sums.total) do out[#out + 1] = struct.pack('<d', part) end
  for _, part in ipairs(sums.squares) do out[#out + 1] = struct.pack('<d', part) end
  return table.concat(out)
end

-- Adds one value; sign -1 takes it away.
local function add_value(sums, value, sign)
  sums.count = sums.count + sign
  grow(sums.total, sign * value)
  grow(sums.squares, sign * (value * value))
end

local function merge_sums(sums, other, sign)
  sums.count = sums.count + sign * other.count
  for _, part in ipairs(other.total) do grow(sums.total, sign * part) end
  for _, part in ipairs(other.squares) do grow(sums.squares, sign * part) end
end

local function add_sums(key, field, cell, sign)
  local sums = read_sums(redis.call('HGET', key, field))
  merge_sums(sums, read_sums(cell), sign)
  redis.call('HSET', key, field, pack_sums(sums))
end
