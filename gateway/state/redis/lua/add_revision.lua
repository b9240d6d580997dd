-- Adds a revision of the configuration. Returns its number.
-- ARGV: the revision without its number.
local P = KEYS[1]
local number = redis.call('INCR', P .. ':revision')
redis.call('HSET', P .. ':revisions', number, ARGV[1])
redis.call('INCR', P .. ':changed')
return number
