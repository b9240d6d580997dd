-- Adds x to an exact sum: a list of parts, smallest first, that do not overlap (gateway.state.exact).
local function grow(parts, x)
  local kept, number = 0, #parts
  for k = 1, number do
    local y = parts[k]
    if math.abs(x) < math.abs(y) then x, y = y, x end
    local high = x + y
    local low = y - (high - x)
    if low ~= 0 then
      kept = kept + 1
      parts[kept] = low
    end
    x = high
  end
  for k = number, kept + 1, -1 do parts[k] = nil end
  if x ~= 0 then parts[kept + 1] = x end
end
