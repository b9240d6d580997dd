-- Adds a revision of the configuration, and forgets the oldest. Returns its number; 0 if there is a newer one than
-- the caller has seen.
-- ARGV: the revision without its number, its entry (without the text), how many texts and how many entries to keep,
-- the newest number that the caller has seen ('': add it in any case).
local P = KEYS[1]
local newest = tonumber(redis.call('GET', P .. ':revision') or '0')
local seen = tonumber(ARGV[5])
-- A number whose revision the server has lost names nothing that the caller could read first.
if seen and newest > seen and redis.call('HEXISTS', P .. ':revisions', newest) == 1 then return 0 end
local number = redis.call('INCR', P .. ':revision')

local function add(key, row, limit)
  redis.call('HSET', key, number, row)
  if redis.call('HLEN', key) <= limit then return end
  for _, known in ipairs(redis.call('HKEYS', key)) do
    if tonumber(known) <= number - limit then redis.call('HDEL', key, known) end
  end
end

add(P .. ':revisions', ARGV[1], tonumber(ARGV[3]))
add(P .. ':revision_entries', ARGV[2], tonumber(ARGV[4]))
redis.call('INCR', P .. ':changed')
return number
