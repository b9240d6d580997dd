-- Makes one observation of a sticky unit's values, as gateway.state.units.Counting does step by step.
-- include: exact

-- Seconds; as gateway.state.units.UNIT_REST_S and UNIT_MOVES_S.
local UNIT_REST_S, UNIT_MOVES_S = 8640000, 34560000

-- A unit: count, start, epoch, time of the newest decision, mean; then the exact total.
local function read_unit(row)
  if not row then return nil end
  local unit, at = {total = {}}, nil
  unit.count, unit.start, unit.epoch, unit.last, unit.mean, at = struct.unpack('<i8i8i8dd', row)
  while at <= #row do unit.total[#unit.total + 1], at = struct.unpack('<d', row, at) end
  return unit
end

local function pack_unit(unit)
  local out = {struct.pack('<i8i8i8dd', unit.count, unit.start, unit.epoch, unit.last, unit.mean)}
  for _, part in ipairs(unit.total) do out[#out + 1] = struct.pack('<d', part) end
  return table.concat(out)
end

-- place: start, epoch and name of the cell of a value; before and after: what it counts as (nil: not at all).
-- count(start, field, value, sign) moves the sums.
local function observe(count, key, period, place, decided, before, after)
  local field, aspect = period .. '\0' .. place.name, ':' .. place.name .. '|units'
  local unit = read_unit(redis.call('HGET', key, field))
  if not unit and not after then return end -- forgotten already: nothing is left to be taken away
  if unit then
    count(unit.start, unit.epoch .. aspect, unit.mean, -1)
    if before then
      unit.count = unit.count - 1
      grow(unit.total, -before)
    end
  else
    unit = {count = 0, start = place.start, epoch = place.epoch, last = decided, mean = 0, total = {}}
  end
  if after then
    unit.count = unit.count + 1
    grow(unit.total, after)
  end
  if unit.count <= 0 then
    redis.call('HDEL', key, field)
    return
  end
  unit.last = math.max(unit.last, decided)
  if place.start - unit.start > UNIT_MOVES_S then unit.start, unit.epoch = place.start, place.epoch end
  local sum = 0
  for _, part in ipairs(unit.total) do sum = sum + part end
  unit.mean = sum / unit.count
  count(unit.start, unit.epoch .. aspect, unit.mean, 1)
  redis.call('HSET', key, field, pack_unit(unit))
  redis.call('EXPIRE', key, UNIT_REST_S)
end
