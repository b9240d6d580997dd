-- Gives a lease back.
-- ARGV: name, owner.
local key = KEYS[1] .. ':lease:' .. ARGV[1]
if redis.call('HGET', key, 'owner') == ARGV[2] then
  -- The fencing number stays, so that the next owner's is higher.
  redis.call('HSET', key, 'owner', '', 'until', '0')
end
return 1
