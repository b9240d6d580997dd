-- Adds shadow responses that are not there yet, and what they count for.
-- ARGV: hour, field, decision, shadow, row, start, compared, agreeing and errors of each.
local P = KEYS[1]
for at = 1, #ARGV, 9 do
  local key, decision, shadow = P .. ':shadowed:' .. ARGV[at], ARGV[at + 2], ARGV[at + 3]
  if redis.call('HSETNX', key, ARGV[at + 1], ARGV[at + 4]) == 1 then
    redis.call('ZADD', P .. ':shadowed_hours', ARGV[at], ARGV[at])
    local shadows = redis.call('HGET', key, decision)
    redis.call('HSET', key, decision, shadows and (shadows .. '\0' .. shadow) or shadow)
    redis.call('ZADD', P .. ':shadow_cells', ARGV[at + 5], ARGV[at + 5])
    for _, start in ipairs({ARGV[at + 5], 'all'}) do
      local cell = P .. ':a:' .. start
      redis.call('HINCRBY', cell, shadow .. '\0answers', 1)
      redis.call('HINCRBY', cell, shadow .. '\0compared', ARGV[at + 6])
      redis.call('HINCRBY', cell, shadow .. '\0agreeing', ARGV[at + 7])
      redis.call('HINCRBY', cell, shadow .. '\0errors', ARGV[at + 8])
    end
  end
end
return 1
