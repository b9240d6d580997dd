local function is_finite(number)
  return number - number == 0
end

-- Reads the head of a stored reward (gateway.state.redis.codec.pack_reward); the JSON behind it is Python's.
-- counted is nil if the reward stays out of the sums; decided is given only with a period.
-- Returns nil if the row is damaged.
local function read_reward(row)
  if #row < 26 then return nil end
  local reward = {period = ''}
  local flags, value, counts, counted, time, at = struct.unpack('<BdBdd', row)
  if flags > 3 or counts > 1 or not (is_finite(value) and is_finite(counted) and is_finite(time)) then return nil end
  if flags % 2 == 1 then reward.value = value end
  if counts == 1 then reward.counted = counted end
  reward.time = time
  if flags >= 2 then
    if #row < at + 1 then return nil end
    local size
    size, at = struct.unpack('<I2', row, at)
    if #row < at + size + 7 then return nil end
    reward.period = string.sub(row, at, at + size - 1)
    reward.decided, at = struct.unpack('<d', row, at + size)
    if not is_finite(reward.decided) then return nil end
  end
  if string.sub(row, at, at) ~= '[' then return nil end
  return reward
end
