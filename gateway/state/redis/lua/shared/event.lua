-- Adds an event under the next number, which is above ``seen``, the highest that the caller has seen; returns it.
local function add_event(P, seen, time, kind, route, data)
  local stored = redis.call('GET', P .. ':event') or ''
  -- Lua has doubles: of a longer number the last digits would be lost.
  if not string.match(stored, '^%d+$') or #stored > 15 then -- lost or damaged
    local newest = redis.call('XREVRANGE', P .. ':events', '+', '-', 'COUNT', 1)[1]
    stored = newest and string.match(newest[1], '^%d+') or '0'
    redis.call('SET', P .. ':event', stored)
  end
  -- A server that lost data would number events again that clients have seen.
  if tonumber(stored) < tonumber(seen) then redis.call('SET', P .. ':event', seen) end
  local number = redis.call('INCR', P .. ':event')
  redis.call('XADD', P .. ':events', string.format('%d-1', number),
    'time', time, 'kind', kind, 'route', route, 'data', data)
  return number
end
