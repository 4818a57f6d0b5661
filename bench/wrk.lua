-- Only `done`: a script with request() or response() would cost the load generator time for every request.
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '\n{"requests": %d, "microseconds": %d, "p50": %.1f, "p99": %.1f, "p999": %.1f, "failed": %d}\n',
        summary.requests, summary.duration, latency:percentile(50.0), latency:percentile(99.0), latency:percentile(99.9),
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
