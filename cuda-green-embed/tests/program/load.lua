-- What wrk sends: one text by one API, a list by the other, in turn. At its end, the number of requests and of errors.
local bodies = {
   { "/v1/embeddings", '{"input":"a b c","model":"any"}' },
   { "/embed", '{"inputs":["a","b","c d","e f"]}' },
   { "/bulk/v1/embeddings", '{"input":["a","b"],"encoding_format":"base64"}' },
}
local headers = { ["Content-Type"] = "application/json" }
local turn = 0

function request()
   turn = turn % #bodies + 1
   return wrk.format("POST", bodies[turn][1], headers, bodies[turn][2])
end

function done(summary)
   local errors = summary.errors
   io.write("requests: ", summary.requests, "\n")
   io.write("errors: ", errors.connect + errors.read + errors.write + errors.status + errors.timeout, "\n")
end
