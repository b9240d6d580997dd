-- Fields that a script reads as it will leave them, and writes once it has read everything: Redis does not take back
-- what a script that fails has written, and a damaged cell makes it fail.
local staged, staged_names, expiries = {}, {}, {}

local function hget(key, field)
  local one = staged[key .. ' ' .. field]
  if one then return one[3] end
  return redis.call('HGET', key, field)
end

-- row: false for none.
local function stage(key, field, row)
  local name = key .. ' ' .. field
  if not staged[name] then staged_names[#staged_names + 1] = name end
  staged[name] = {key, field, row}
end

local function expire(key, seconds)
  expiries[key] = seconds
end

local function write_staged()
  for _, name in ipairs(staged_names) do
    local key, field, row = unpack(staged[name])
    if row then
      redis.call('HSET', key, field, row)
    else
      redis.call('HDEL', key, field)
    end
  end
  for key, seconds in pairs(expiries) do redis.call('EXPIRE', key, seconds) end
end
