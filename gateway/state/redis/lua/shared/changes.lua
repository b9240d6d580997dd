local KEPT_CHANGES = 4096 -- gateway.state.tally.KEPT_CHANGES

-- Notes which buckets of the aggregates change; starts: keys of a table.
local function note_changes(P, starts)
  if next(starts) == nil then return end
  local version = redis.call('INCR', P .. ':cells_version')
  if version == 1 then -- the store may have come back empty: go on behind all that was known before
    local time = redis.call('TIME')
    version = time[1] * 1000000 + time[2]
    redis.call('SET', P .. ':cells_version', string.format('%.0f', version))
  end
  local shown = string.format('%.0f', version)
  for start in pairs(starts) do redis.call('ZADD', P .. ':changed_cells', shown, start) end
  redis.call('ZREMRANGEBYSCORE', P .. ':changed_cells', '-inf', string.format('%.0f', version - KEPT_CHANGES))
end
