-- wrk asks for the targets of a file in turn. A line holds METHOD, path, header lines joined by "|" (or nothing) and
-- body (or nothing), separated by tabs. Two further arguments are the pause of a connection behind each response, in
-- milliseconds, and the number of connections. The last line of the output is JSON.

local requests = {}
local turn = 0
local pause = 0
local connections = 1
local begun = 0

function init(arguments)
  pause = tonumber(arguments[2] or "0")
  connections = tonumber(arguments[3] or "1")
  if pause == 0 then delay = nil end
  for line in io.lines(arguments[1]) do
    local method, path, extra, body = line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)$")
    local headers = {}
    for name, value in pairs(wrk.headers) do headers[name] = value end
    for name, value in extra:gmatch("([^|:]+): ([^|]+)") do headers[name] = value end
    requests[#requests + 1] = wrk.format(method, path, headers, body ~= "" and body or nil)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

-- wrk asks for a delay before the first request of each connection too. With a pause, connections begin one after the
-- other: if all began at once, the first responses, which wait for each other, would be the slowest hundredth of a run
-- of two seconds.
function delay()
  if begun == connections then return pause end
  begun = begun + 1
  return math.floor(pause * begun / connections)
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "refused": %d, "broken": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
