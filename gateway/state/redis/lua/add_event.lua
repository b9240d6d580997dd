-- Adds an event. Returns its number.
-- ARGV: the highest number that the caller has seen, time, kind, route, data.
-- include: event
return add_event(KEYS[1], unpack(ARGV))
