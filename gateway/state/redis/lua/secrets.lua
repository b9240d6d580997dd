-- Returns all secrets of a name, the one to use first; makes one if there is none.
-- ARGV: name, a new secret, then those that the caller has seen.
local key, kept = KEYS[1] .. ':secrets:' .. ARGV[1], {}
for _, secret in ipairs(redis.call('LRANGE', key, 0, -1)) do kept[secret] = true end
-- Those that the server has lost come back, behind the first, which all processes agree on.
for k = 3, #ARGV do
  if not kept[ARGV[k]] then redis.call('RPUSH', key, ARGV[k]) end
end
if #ARGV == 2 and next(kept) == nil then redis.call('RPUSH', key, ARGV[2]) end
return redis.call('LRANGE', key, 0, -1)
