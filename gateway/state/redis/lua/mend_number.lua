-- Replaces a damaged number by the highest field of a hash, unless another process was faster. Returns the number.
-- ARGV: the name of the number, and of the hash ('' for none: 0).
local key, highest = KEYS[1] .. ':' .. ARGV[1], 0
local stored = redis.call('GET', key) or '0'
if string.match(stored, '^%d+$') and #stored <= 15 then return stored end
if ARGV[2] ~= '' then
  for _, field in ipairs(redis.call('HKEYS', KEYS[1] .. ':' .. ARGV[2])) do
    highest = math.max(highest, tonumber(field) or 0)
  end
end
local mended = string.format('%.0f', highest)
redis.call('SET', key, mended)
return mended
