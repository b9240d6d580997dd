-- Writes back revisions that the store has lost. Returns 1 if the newest was lost.
-- ARGV: number and revision of each that the caller remembers, newest first.
local P = KEYS[1]
local number = tonumber(redis.call('GET', P .. ':revision') or '0')
if number >= tonumber(ARGV[1]) and redis.call('HEXISTS', P .. ':revisions', ARGV[1]) == 1 then return 0 end
if number < tonumber(ARGV[1]) then redis.call('SET', P .. ':revision', ARGV[1]) end
for k = 1, #ARGV, 2 do redis.call('HSETNX', P .. ':revisions', ARGV[k], ARGV[k + 1]) end
redis.call('INCR', P .. ':changed')
return 1
