-- Makes one observation of a sticky unit's values, as gateway.state.units.Counting does step by step.
-- include: exact
-- include: staged

-- Seconds; as gateway.state.units.UNIT_REST_S and UNIT_MOVES_S.
local UNIT_REST_S, UNIT_MOVES_S = 8640000, 34560000

-- A unit: count, start, epoch, time of the newest decision, mean; then the exact total.
local function read_unit(row)
  if not row or #row < 40 or #row % 8 ~= 0 then return nil end -- a damaged one counts as forgotten
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

local function sum_of(parts)
  local sum = 0
  for _, part in ipairs(parts) do sum = sum + part end
  return sum
end

-- A value of a unit, times w, counted as before and counts as after (nil: not at all).
local function change(unit, before, after, w)
  if before then
    unit.count = unit.count - 1
    grow(unit.total, -(w * before))
  end
  if after then
    unit.count = unit.count + 1
    grow(unit.total, w * after)
  end
end

-- A decision was made in a place.
local function come(unit, place, decided)
  unit.last = math.max(unit.last, decided)
  if place.start - unit.start > UNIT_MOVES_S then unit.start, unit.epoch = place.start, place.epoch end
end

-- Adds to what is kept of a unit's values whatever their period and variant.
local function remember(key, field, decided, before, after)
  local unit = read_unit(hget(key, field))
  if not unit and not after then return end
  unit = unit or {count = 0, start = 0, epoch = 0, last = decided, mean = 0, total = {}}
  change(unit, before, after, 1)
  unit.last = math.max(unit.last, decided)
  if unit.count > 0 then
    stage(key, field, pack_unit(unit))
  else
    stage(key, field, false)
  end
end

-- The mean of a unit's values from outside an experiment, as what stands next to its observation; nil without any.
local function new_past(key, all, own)
  local every, mine = read_unit(hget(key, all)), read_unit(hget(key, own))
  if not every then return nil end
  if mine then
    every.count = every.count - mine.count
    for _, part in ipairs(mine.total) do grow(every.total, -part) end
  end
  if every.count <= 0 then return nil end
  local mean = {}
  grow(mean, sum_of(every.total) / every.count)
  return {count = 1, total = mean, mean = 0}
end

local OF_PAST, OF_WEIGHTS = {'|past', '|known', '|both'}, {'|weighted', '|weight', '|joint'}
local OF_UNITS = {'|sum', '|number', '|together'}

-- Moves the sums of a unit's total, of its mean, and of both together.
local function count_pair(count, unit, name, aspects, sign)
  local total, field = sum_of(unit.total), unit.epoch .. ':' .. name
  count(unit.start, field .. aspects[1], total, sign)
  count(unit.start, field .. aspects[2], unit.mean, sign)
  count(unit.start, field .. aspects[3], total + unit.mean, sign)
end

-- Moves the weighted sums of a unit: its total is that of w y, its mean that of w.
local function weigh(count, key, place, decided, before, after, w, period, aspects)
  local field = period .. '\0' .. place.name .. aspects[1]
  local unit = read_unit(hget(key, field))
  if unit then
    count_pair(count, unit, place.name, aspects, -1)
  elseif after then
    unit = {count = 0, start = place.start, epoch = place.epoch, last = decided, mean = 0, total = {}}
    before = nil
  else
    return
  end
  unit.mean = unit.mean + (after and w or 0) - (before and w or 0)
  change(unit, before, after, w)
  come(unit, place, decided)
  if unit.count > 0 then
    count_pair(count, unit, place.name, aspects, 1)
    stage(key, field, pack_unit(unit))
  else
    stage(key, field, false)
  end
end

-- place: start, epoch, name and metric of the cell of a value, and its weight; before and after: what it counts as
-- (nil: not at all).
-- count(start, field, value, sign) moves the sums.
local function observe(count, key, period, place, decided, before, after)
  local plain, experiment = string.match(period, '^([^~]*)~(.*)$')
  plain = plain or period
  if string.sub(plain, 1, 1) ~= 'e' then
    weigh(count, key, place, decided, before, after, place.weight, 'all', OF_WEIGHTS)
  elseif string.sub(plain, -1) == '+' then
    plain = string.sub(plain, 1, -2)
    weigh(count, key, place, decided, before, after, 1, plain, OF_UNITS)
  end
  local field, aspect = plain .. '\0' .. place.name, ':' .. place.name .. '|units'
  local unit, past = read_unit(hget(key, field)), nil
  if experiment then
    local all, own = 'past\0\0' .. place.metric, 'past~' .. experiment .. '\0\0' .. place.metric
    if unit then
      past = read_unit(hget(key, field .. '|past'))
    elseif experiment ~= '' then
      past = new_past(key, all, own)
    end
    remember(key, all, decided, before, after)
    if experiment ~= '' then remember(key, own, decided, before, after) end
  end
  if not unit and not after then return end -- forgotten already: nothing is left to be taken away
  if unit then
    count(unit.start, unit.epoch .. aspect, unit.mean, -1)
    if past then count_pair(count, past, place.name, OF_PAST, -1) end
  else
    unit = {count = 0, start = place.start, epoch = place.epoch, last = decided, mean = 0, total = {}}
    before = nil
  end
  change(unit, before, after, 1)
  if unit.count <= 0 then
    stage(key, field, false)
    if not experiment then
      past = read_unit(hget(key, field .. '|past'))
      if past then count_pair(count, past, place.name, OF_PAST, -1) end
    end
    if past then stage(key, field .. '|past', false) end
    return
  end
  come(unit, place, decided)
  unit.mean = sum_of(unit.total) / unit.count
  count(unit.start, unit.epoch .. aspect, unit.mean, 1)
  stage(key, field, pack_unit(unit))
  if past then
    past.start, past.epoch, past.last, past.mean = unit.start, unit.epoch, unit.last, unit.mean
    count_pair(count, past, place.name, OF_PAST, 1)
    stage(key, field .. '|past', pack_unit(past))
  end
  expire(key, UNIT_REST_S)
end
