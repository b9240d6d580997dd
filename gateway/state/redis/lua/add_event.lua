-- Adds an event. Returns its number, which is above all that the caller has seen.
-- ARGV: time, kind, route, data, the highest number that the caller has seen.
local P = KEYS[1]
if tonumber(redis.call('GET', P .. ':event') or '0') < tonumber(ARGV[5]) then
  redis.call('SET', P .. ':event', ARGV[5])
end
local number = redis.call('INCR', P .. ':event')
redis.call('XADD', P .. ':events', string.format('%d-1', number),
  'time', ARGV[1], 'kind', ARGV[2], 'route', ARGV[3], 'data', ARGV[4])
return number
