-- Adds a revision of the configuration, and forgets the oldest. Returns its number.
-- ARGV: the revision without its number, its entry (without the text), how many texts and how many entries to keep.
local P = KEYS[1]
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
