-- The cells of the first buckets of the aggregates between two starts.
-- ARGV: c(ounts) or s(ums), 1 for counts without their histograms, the limits, the numbers of buckets and of cells (also
-- of those that are left out) after which it stops, and 1 for the sums of segments instead of those of all decisions.
-- Returns the cells, each as u32 start, u16 and u32 lengths, field, cell; and the last start if there may be more.
-- include: fields
-- include: counts
local starts = redis.call('ZRANGEBYSCORE', KEYS[1] .. ':cells', ARGV[3], ARGV[4], 'LIMIT', 0, ARGV[5])
local out, seen, last = {}, 0, #starts == tonumber(ARGV[5]) and starts[#starts]
for _, start in ipairs(starts) do
  for field, cell in in_pairs(redis.call('HGETALL', KEYS[1] .. ':' .. ARGV[1] .. ':' .. start)) do
    seen = seen + 1
    if ARGV[1] == 'c' or (string.find(field, '|@', 1, true) ~= nil) == (ARGV[7] == '1') then
      if ARGV[2] == '1' then
        local _, _, _, _, _, _, at = read_counts(cell)
        cell = string.sub(cell, 1, at - 1)
      end
      out[#out + 1] = struct.pack('<I4I2I4', tonumber(start), #field, #cell)
      out[#out + 1] = field
      out[#out + 1] = cell
    end
  end
  if seen >= tonumber(ARGV[6]) then
    last = start
    break
  end
end
return {table.concat(out), last}
