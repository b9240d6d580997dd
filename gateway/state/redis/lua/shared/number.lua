-- The number under a name, as text. A damaged one becomes the highest field of a hash ('' for none: 0).
local function number_of(P, name, hash)
  local key, highest = P .. ':' .. name, 0
  local stored = redis.call('GET', key) or '0'
  if string.match(stored, '^%d+$') and #stored <= 15 then return stored end
  if hash ~= '' then
    for _, field in ipairs(redis.call('HKEYS', P .. ':' .. hash)) do
      highest = math.max(highest, tonumber(field) or 0)
    end
  end
  local mended = string.format('%.0f', highest)
  redis.call('SET', key, mended)
  return mended
end
