-- Clients of `cap2im serve` for wrk, which each ask for one picture after the other: see serve.py.
--
-- Captions are the lines of the file that is given; every request has a seed of its own.

function init(arguments)
   captions = {}
   for line in io.lines(arguments[1]) do
      captions[#captions + 1] = line
   end
   math.randomseed(os.time())
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
end

function request()
   local caption, seed = captions[math.random(#captions)], math.random(0, 999999)
   return wrk.format(nil, "/v1/draw", nil, string.format('{"captions": ["%s"], "seed": %d}', caption, seed))
end

function done(summary, latency)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   local told = '{"pictures": %d, "seconds": %f, "failed": %d, "p50": %f, "p99": %f}\n'
   local p50, p99 = latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
   io.write(string.format(told, summary.requests, summary.duration / 1e6, failed, p50, p99))
end
