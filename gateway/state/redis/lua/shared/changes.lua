local KEPT_CHANGES = 4096 -- gateway.state.tally.KEPT_CHANGES
-- Doubles are exact up to here.
local MAX_VERSION = 2 ^ 53

-- Notes which buckets of the aggregates change; starts: keys of a table.
local function note_changes(P, starts)
  if next(starts) == nil then return end
  local version = tonumber(redis.call('GET', P .. ':cells_version') or '')
  if version and version >= 0 and version < MAX_VERSION then
    version = version + 1
  else -- damaged, or the store has come back empty: go on behind all that was known before
    local time = redis.call('TIME')
    version = time[1] * 1000000 + time[2]
  end
  local shown = string.format('%.0f', version)
  redis.call('SET', P .. ':cells_version', shown)
  for start in pairs(starts) do redis.call('ZADD', P .. ':changed_cells', shown, start) end
  redis.call('ZREMRANGEBYSCORE', P .. ':changed_cells', '-inf', string.format('%.0f', version - KEPT_CHANGES))
end
