-- Adds an event. Returns its number, which is above all that the caller has seen.
-- ARGV: time, kind, route, data, the highest number that the caller has seen.
local P = KEYS[1]
local stored, seen = redis.call('GET', P .. ':event') or '0', tonumber(ARGV[5])
-- Lua has doubles: of a longer number the last digits would be lost.
if not string.match(stored, '^%d+$') or #stored > 15 then -- damaged
  local newest = redis.call('XREVRANGE', P .. ':events', '+', '-', 'COUNT', 1)[1]
  stored = newest and string.match(newest[1], '^%d+') or '0'
  redis.call('SET', P .. ':event', stored)
end
-- A server that lost data would number events again that clients have seen.
if tonumber(stored) < seen then redis.call('SET', P .. ':event', ARGV[5]) end
local number = redis.call('INCR', P .. ':event')
redis.call('XADD', P .. ':events', string.format('%d-1', number),
  'time', ARGV[1], 'kind', ARGV[2], 'route', ARGV[3], 'data', ARGV[4])
return number
