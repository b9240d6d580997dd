-- Upserts rewards, and moves the sums from what each counted as to what it counts as.
-- ARGV: '1' for a replay; then hour, field, decision, metric, row and start of each reward, of its features
-- (or '' three times) the packed row, start and cell, and epoch, name of the cell, unit, '1' if another
-- than the assigned variant served the decision, its weight in steps (gateway.state.units.weight_steps), the aspects of
-- the segments that it is in, and of its covariates the id and the steps (gateway.record.context.covariates_of).
-- Returns a letter for each: a(ccepted), d(uplicate), u(pdated), r(eplaces a damaged row, and moves no sums: the old
-- one is taken to have counted as the new one).
-- include: fields
-- include: sums
-- include: linear
-- include: rewards
-- include: units
-- include: changes
-- include: number
local P = KEYS[1]
local replay, results, touched = ARGV[1] == '1', {}, false

-- The cells that this call changes: each is read once and written once.
local cells, cell_names, rows, row_names = {}, {}, {}, {}

local function cell(key, field)
  local name = key .. ' ' .. field
  if not cells[name] then
    cells[name] = {key, field, read_sums(redis.call('HGET', key, field))}
    cell_names[#cell_names + 1] = name
  end
  return cells[name][3]
end

-- By start and field, the cells of the bucket and of the total, which a unit moves again and again.
local pairs_of, starts = {}, {}

local function count(start, field, value, sign)
  local name = start .. ' ' .. field
  local both = pairs_of[name]
  if not both then
    both = {cell(P .. ':s:' .. start, field), cell(P .. ':s:all', total_of(field))}
    pairs_of[name], starts[start] = both, true
    redis.call('ZADD', P .. ':cells', start, start)
  end
  add_value(both[1], value, sign)
  add_value(both[2], value, sign)
end

local function count_row(at, value, sign)
  local context, start, field = ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
  if context == '' then return end
  for _, bucket in ipairs({start, 'all'}) do
    local name = bucket .. ' ' .. field
    if not rows[name] then
      local key = P .. ':l:' .. bucket
      rows[name] = {key, field, read_linear(redis.call('HGET', key, field), string.byte(context, 9))}
      row_names[#row_names + 1] = name
    end
    add_row(rows[name][3], context, value, sign)
  end
  redis.call('ZADD', P .. ':linear', start, start)
end

-- Moves the sums for a value of a reward that counts under a period.
local function move(place, period, value, sign)
  local name = place.epoch .. ':' .. place.name
  count(place.start, period == '' and name or name .. '|sticky', value, sign)
  if place.rescued then count(place.start, name .. '|rescued', value, sign) end
  for id, steps in string.gmatch(place.covariates, '(%x+):(-?%d+);') do
    local x = tonumber(steps) / 4096
    count(place.start, name .. '|x:' .. id, x, sign)
    count(place.start, name .. '|y:' .. id, value, sign)
    count(place.start, name .. '|xy:' .. id, x + value, sign)
  end
  local w = place.inverse
  if w then
    count(place.start, name .. '|ipw', w * value, sign)
    count(place.start, name .. '|ipw_weight', w, sign)
    count(place.start, name .. '|ipw_joint', w * value + w, sign)
  end
end

-- Moves the sums from what a reward counted as under a row to what it counts as under another. The counterpart of
-- gateway.state.units.Counting._change. old: nil for a reward that is new.
local function change(unit_key, place, old, new, bare)
  local period, before = bare(new.period), old and old.counted
  if before then move(place, bare(old.period), before, -1) end
  if old and bare(old.period) ~= period then
    if before and old.period ~= '' then observe(count, unit_key, bare(old.period), place, old.decided, before, nil) end
    before = nil
  end
  if new.counted then move(place, period, new.counted, 1) end
  if period ~= '' and (before or new.counted) then
    observe(count, unit_key, period, place, new.decided, before, new.counted)
  end
end

local function whole(period) return period end

-- gateway.state.units._bare
local function bare(period) return (string.gsub(string.match(period, '^[^~]*'), '%+$', '')) end

for at = 2, #ARGV, 16 do
  local hour, field, decision, metric = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local row, unit_key = ARGV[at + 4], P .. ':unit:' .. ARGV[at + 11]
  local place = {start = tonumber(ARGV[at + 5]), epoch = ARGV[at + 9], name = ARGV[at + 10], metric = metric,
    rescued = ARGV[at + 12] == '1', weight = tonumber(ARGV[at + 13]) / 1048576, covariates = ARGV[at + 15]}
  if ARGV[at + 6] ~= '' then place.inverse = place.weight end
  local key = P .. ':rewards:' .. hour
  local new, known, old = read_reward(row), hget(key, field), nil
  local result = 'a'
  if known then
    old = read_reward(known)
    if not old then
      result, new.counted, new.period = 'r', nil, ''
    else
      result = (old.value == new.value or (replay and new.time < old.time)) and 'd' or 'u'
    end
  else
    redis.call('ZADD', P .. ':reward_hours', hour, hour)
    local metrics = hget(key, decision)
    stage(key, decision, metrics and (metrics .. '\0' .. metric) or metric)
  end
  if result ~= 'd' then
    touched = true
    -- What is retracted stays damaged: the sums still count it, so that a later report must not count besides it.
    if result ~= 'r' or new.value then stage(key, field, row) end
    if old and old.counted then count_row(at, old.counted, -1) end
    if new.counted then count_row(at, new.counted, 1) end
    change(unit_key, place, old, new, whole)
    for segment in string.gmatch(ARGV[at + 14], '|@%x+') do
      local part = {start = place.start, epoch = place.epoch, name = place.name .. segment, metric = metric .. segment,
        rescued = place.rescued, weight = place.weight, covariates = ''}
      change(unit_key, part, old, new, bare)
    end
  end
  results[#results + 1] = result
end
write_staged()
for _, name in ipairs(cell_names) do
  local key, field, sums = unpack(cells[name])
  redis.call('HSET', key, field, pack_sums(sums))
end
for _, name in ipairs(row_names) do
  local key, field, sums = unpack(rows[name])
  redis.call('HSET', key, field, pack_linear(sums))
end
note_changes(P, starts)
if touched then
  -- A damaged number would make INCR fail, after the rewards were written.
  number_of(P, 'changed', '')
  redis.call('INCR', P .. ':changed')
end
return table.concat(results)
