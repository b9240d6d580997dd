-- Sends the raw requests of a file in turn (so that users and request ids vary) and prints one
-- line of JSON at the end. Latencies are microseconds.
local items, turn = {}, 0

function init(args)
   local file = assert(io.open(args[1], "rb"))
   while true do
      local size = file:read("*l")
      if not size then break end
      items[#items + 1] = file:read(tonumber(size))
   end
   file:close()
end

function request()
   turn = turn % #items + 1
   return items[turn]
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      'RESULT {"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, ' ..
      '"errors": %d}\n',
      summary.requests, summary.duration, summary.bytes,
      latency:percentile(50), latency:percentile(99), latency.max,
      e.connect + e.read + e.write + e.status + e.timeout))
end
