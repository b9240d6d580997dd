-- Reads the head of a stored reward (gateway.state.redis.codec.pack_reward); the JSON behind it is Python's.
-- counted is nil if the reward stays out of the sums; decided is given only with a period.
local function read_reward(row)
  local reward, at, flags, counts, size = {period = ''}, nil, nil, nil, nil
  flags, reward.value, counts, reward.counted, reward.time, at = struct.unpack('<BdBdd', row)
  if flags % 2 == 0 then reward.value = nil end
  if counts == 0 then reward.counted = nil end
  if flags >= 2 then
    size, at = struct.unpack('<I2', row, at)
    reward.period = string.sub(row, at, at + size - 1)
    reward.decided = struct.unpack('<d', row, at + size)
  end
  return reward
end
