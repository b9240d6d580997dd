-- Takes or renews a lease. Returns its fencing number, or 0 while another holds it.
-- ARGV: name, owner, until, now, the latest end that is believed.
local key = KEYS[1] .. ':lease:' .. ARGV[1]
local held = redis.call('HMGET', key, 'owner', 'until', 'fence')
local fence = 1
if held[3] then
  local ends = tonumber(held[2] or '') or 0 -- a damaged lease has lapsed
  if ends <= tonumber(ARGV[4]) or ends > tonumber(ARGV[5]) then
    fence = (tonumber(held[3]) or 0) + 1 -- lapsed: even its last owner may have been followed by work of another
  elseif held[1] == ARGV[2] then
    fence = tonumber(held[3]) or 1
  else
    return 0
  end
end
redis.call('HSET', key, 'owner', ARGV[2], 'until', ARGV[3], 'fence', fence)
return fence
