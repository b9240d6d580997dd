-- Cells of sums over rows of features, packed as gateway.state.linear.ExactLinear.pack does.
-- include: exact

local function read_linear(cell, width)
  local sums = {count = 0, width = width, products = {}, rewards = {}}
  if not cell then
    for k = 1, width * (width + 1) / 2 do sums.products[k] = 0 end
    for k = 1, width + 1 do sums.rewards[k] = {} end
    return sums
  end
  local at
  sums.count, sums.width, at = struct.unpack('<i8B', cell)
  -- One call for all doubles: a call for each took the whole script twice as long (32 columns).
  local number = sums.width * (sums.width + 1) / 2
  sums.products = {struct.unpack('<' .. string.rep('d', number), cell, at)}
  at = table.remove(sums.products)
  for k = 1, sums.width + 1 do
    local number, parts = string.byte(cell, at), {}
    at = at + 1
    for n = 1, number do parts[n], at = struct.unpack('<d', cell, at) end
    sums.rewards[k] = parts
  end
  return sums
end

local function pack_linear(sums)
  local products = struct.pack('<' .. string.rep('d', #sums.products), unpack(sums.products))
  local out = {struct.pack('<i8B', sums.count, sums.width), products}
  for _, parts in ipairs(sums.rewards) do
    out[#out + 1] = string.char(#parts)
    for _, part in ipairs(parts) do out[#out + 1] = struct.pack('<d', part) end
  end
  return table.concat(out)
end

-- Adds a row of features (gateway.record.context) with its reward; sign -1 takes it away.
local function add_row(sums, context, value, sign)
  local entries, at = {{0, 1}}, 10
  while at <= #context do
    local column, steps
    column, steps, at = struct.unpack('>Bi2', context, at)
    entries[#entries + 1] = {column, steps / 4096}
  end
  sums.count = sums.count + sign
  for k, one in ipairs(entries) do
    local i, x = one[1], one[2]
    local start = i * sums.width - i * (i - 1) / 2 - i + 1
    for n = k, #entries do
      local place = start + entries[n][1]
      sums.products[place] = sums.products[place] + sign * (x * entries[n][2])
    end
    grow(sums.rewards[i + 1], sign * (value * x))
  end
  grow(sums.rewards[sums.width + 1], sign * (value * value))
end

local function merge_linear(sums, other, sign)
  sums.count = sums.count + sign * other.count
  for k, product in ipairs(other.products) do sums.products[k] = sums.products[k] + sign * product end
  for k, parts in ipairs(other.rewards) do
    for _, part in ipairs(parts) do grow(sums.rewards[k], sign * part) end
  end
end

local function add_linear(key, field, cell, sign)
  local other = read_linear(cell)
  local sums = read_linear(redis.call('HGET', key, field), other.width)
  merge_linear(sums, other, sign)
  redis.call('HSET', key, field, pack_linear(sums))
end
