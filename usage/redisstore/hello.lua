-- Says what the store is and where it stands in a stream.
--
-- KEYS: genesis, the stream's cursor. ARGV: a genesis should there be none.

for key, want in pairs({[KEYS[1]] = 'string', [KEYS[2]] = 'hash'}) do
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
return {genesis, redis.call('HGETALL', KEYS[2]), now}
