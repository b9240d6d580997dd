-- The field of a total: the field of a cell with -1 as its epoch.
local function total_of(field)
  return '-1' .. string.sub(field, string.find(field, ':', 1, true), -1)
end

-- Iterates over a flat list of pairs, as HGETALL returns it.
local function in_pairs(list)
  local k = -1
  return function()
    k = k + 2
    return list[k], list[k + 1]
  end
end
