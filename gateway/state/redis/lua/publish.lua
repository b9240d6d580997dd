-- Stores an allocation if its epoch follows the newest. Returns 1, or 0 if it does not.
-- ARGV: epoch, the allocation, the ensemble ('' for none), 'restored' for one that the store has lost (its epoch
-- may be any number above the newest, or the newest if its allocation is missing). If no allocation is left, because
-- all were damaged, any epoch follows.
local P, epoch = KEYS[1], tonumber(ARGV[1])
local newest = tonumber(redis.call('GET', P .. ':epoch') or epoch - 1)
if redis.call('HLEN', P .. ':allocations') == 0 then newest = epoch - 1 end
local restored = ARGV[4] == 'restored'
local missing = restored and newest == epoch and redis.call('HEXISTS', P .. ':allocations', ARGV[1]) == 0
if not missing and (newest >= epoch or (newest + 1 ~= epoch and not restored)) then return 0 end
redis.call('SET', P .. ':epoch', ARGV[1])
redis.call('HSET', P .. ':allocations', ARGV[1], ARGV[2])
-- The ensemble before is kept too: a follower may be about to read it.
for _, old in ipairs(redis.call('HKEYS', P .. ':ensembles')) do
  if tonumber(old) < epoch - 1 then redis.call('HDEL', P .. ':ensembles', old) end
end
if ARGV[3] ~= '' then redis.call('HSET', P .. ':ensembles', ARGV[1], ARGV[3]) end
redis.call('INCR', P .. ':changed')
return 1
