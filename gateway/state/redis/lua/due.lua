-- What there is to do for the upkeep of a route, so that a route without work costs one short call.
-- ARGV: the limits below which pages, hours of rewards, hours of shadows, buckets and allocations are forgotten, and
-- pages are merged; how many allocations are kept; the number of rungs of the ladder of buckets, then below which start
-- buckets have which width, for each; the same of sums over rows of features.
-- Returns 1 if there is something to forget; start and width of the next coarse bucket of cells ('' without one), the
-- same of shadows; 1 if sums over rows of features are to be folded, 1 if pages are to be merged.
local P = KEYS[1]

local function any(index, limit)
  return #redis.call('ZRANGEBYSCORE', P .. index, '-inf', '(' .. limit, 'LIMIT', 0, 1) > 0
end

local function too_many_allocations(number, limit)
  local epochs, lowest = redis.call('HKEYS', P .. ':allocations'), nil
  if #epochs > number then return true end
  if #epochs < 2 then return false end
  for _, epoch in ipairs(epochs) do lowest = math.min(lowest or math.huge, tonumber(epoch)) end
  local row = redis.call('HGET', P .. ':allocations', string.format('%.0f', lowest))
  local readable, time = pcall(function() return cjson.decode(row).time + 0 end)
  return not readable or time < limit
end

local function finer(index, at)
  for k = at + 1, at + 2 * tonumber(ARGV[at]), 2 do
    local width = tonumber(ARGV[k + 1])
    for _, start in ipairs(redis.call('ZRANGEBYSCORE', P .. index, '-inf', '(' .. ARGV[k])) do
      if tonumber(start) % width ~= 0 then return tonumber(start) - tonumber(start) % width, width end
    end
  end
  return '', ''
end

local forget = any(':last', ARGV[1]) or any(':reward_hours', ARGV[2]) or any(':shadowed_hours', ARGV[3])
  or any(':cells', ARGV[4]) or any(':shadow_cells', ARGV[4]) or any(':linear', ARGV[4])
  or too_many_allocations(tonumber(ARGV[7]), tonumber(ARGV[5]))
local cells, width = finer(':cells', 8)
local shadows, shadow_width = finer(':shadow_cells', 8)
local linear = finer(':linear', 9 + 2 * tonumber(ARGV[8]))
return {forget and 1 or 0, cells, width, shadows, shadow_width, linear ~= '' and 1 or 0,
  any(':small', ARGV[6]) and 1 or 0}
