-- Says what the store is and where it stands in a stream.
--
-- KEYS: genesis, the stream's cursor, streams, retired. ARGV: a genesis should there be none,
--       the stream.

for key, want in pairs({[KEYS[1]] = 'string', [KEYS[2]] = 'hash', [KEYS[3]] = 'set', [KEYS[4]] = 'hash'}) do
	local is = redis.call('TYPE', key).ok
	if is ~= 'none' and is ~= want then
		return redis.error_reply('FOREIGN the key ' .. key .. ' holds a ' .. is)
	end
end
local genesis = redis.call('GET', KEYS[1])
if not genesis then
	genesis = ARGV[1]
	redis.call('SET', KEYS[1], genesis)
end

-- Whoever greets is alive, if it has nothing to tell for months (see retire.lua).
local now = redis.call('TIME')
local seen = redis.call('HGET', KEYS[2], 'seen')
if seen and now[1] - (tonumber(seen) or 0) > 86400 then
	redis.call('HSET', KEYS[2], 'seen', now[1])
end
local counted = redis.call('SISMEMBER', KEYS[3], ARGV[2])
if redis.call('HGET', KEYS[4], 's:' .. ARGV[2]) then counted = 1 end
return {genesis, redis.call('HGETALL', KEYS[2]), now, counted}
