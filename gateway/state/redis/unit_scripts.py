"""The part of the reward script that makes one observation of a sticky unit's values.

It does what `gateway.state.units.Counting` does, step by step; the contract suite compares them.
"""

from __future__ import annotations

from typing import Final

from gateway.state.units import MOVES, REST

_LUA: Final = """
local REST, MOVES = @REST@, @MOVES@

-- A unit: count, start, epoch, time of the newest decision, mean; then the exact total.
local function read_unit(key, field)
  local value = redis.call('HGET', key, field)
  if not value then return nil end
  local unit, at = {total = {}}, nil
  unit.count, unit.start, unit.epoch, unit.last, unit.mean, at = struct.unpack('<i8i8i8dd', value)
  while at <= #value do unit.total[#unit.total + 1], at = struct.unpack('<d', value, at) end
  return unit
end

local function write_unit(key, field, unit)
  local out = {struct.pack('<i8i8i8dd', unit.count, unit.start, unit.epoch, unit.last, unit.mean)}
  for _, part in ipairs(unit.total) do out[#out + 1] = struct.pack('<d', part) end
  redis.call('HSET', key, field, table.concat(out))
  redis.call('EXPIRE', key, REST)
end

-- start, epoch and name: where a value is counted; before and after: what it counts as (nil: not at all).
local function observe(count, unit_hex, period, place, decided, before, after)
  local key, field = P .. ':unit:' .. unit_hex, period .. '\\0' .. place.name
  local unit = read_unit(key, field)
  if not unit and not after then return end
  if unit then
    count(unit.start, unit.epoch .. ':' .. place.name .. '|units', unit.mean, -1)
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
  if place.start - unit.start > MOVES then unit.start, unit.epoch = place.start, place.epoch end
  local sum = 0
  for _, part in ipairs(unit.total) do sum = sum + part end
  unit.mean = sum / unit.count
  count(unit.start, unit.epoch .. ':' .. place.name .. '|units', unit.mean, 1)
  write_unit(key, field, unit)
end
"""
UNITS: Final = _LUA.replace("@REST@", str(REST)).replace("@MOVES@", str(MOVES))
