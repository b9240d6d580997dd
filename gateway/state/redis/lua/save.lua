-- Stores a document if the stored version is the expected one, and adds events. Returns their numbers, or false if it is
-- not.
-- ARGV: document, expected version, text, 'restored' for one that the store has lost (any lower version is expected),
-- the highest number of an event that the caller has seen, and of each event: time, kind, route, data.
-- include: event
local P, key = KEYS[1], KEYS[1] .. ':documents'
local stored = redis.call('HGET', key, ARGV[1])
-- The version stands before the text in one value, so that no one of them can be lost alone.
local version, expected = tonumber(stored and string.match(stored, '^%d+') or '0'), tonumber(ARGV[2])
if version > expected or (version ~= expected and ARGV[4] ~= 'restored') then return false end
redis.call('INCR', P .. ':changed')
-- The document last: what a server refuses in a script does not undo what came before it.
local numbers = {}
for at = 6, #ARGV, 4 do
  numbers[#numbers + 1] = add_event(P, ARGV[5], ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
end
redis.call('HSET', key, ARGV[1], string.format('%d', expected + 1) .. '\n' .. ARGV[3])
return numbers
