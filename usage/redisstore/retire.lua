-- Lets go of a stream that nobody has used for long: its totals go to those of all
-- such streams. Whoever comes second finds nothing to do.
--
-- KEYS: the stream's cursor, streams, retired. ARGV: stream, seconds.

local call, find = redis.call, string.find
local CURSOR, STREAMS, RETIRED = KEYS[1], KEYS[2], KEYS[3]

local seen = call('HGET', CURSOR, 'seen')
if not seen or call('TIME')[1] - tonumber(seen) < tonumber(ARGV[2]) then return 0 end

-- First look, so that nothing fails half way: counters, and far from their end.
local function counters(key)
	local fields = call('HGETALL', key)
	for i = 1, #fields, 2 do
		if (find(fields[i], '^%d+$') or fields[i] == 'dead') and not find(fields[i + 1], '^-?%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') then
			return nil
		end
	end
	return fields
end
local kind = call('TYPE', RETIRED).ok
if kind ~= 'none' and kind ~= 'hash' then
	return redis.error_reply('FOREIGN the key ' .. RETIRED .. ' holds a ' .. kind)
end
local fields = counters(CURSOR)
if not fields or not counters(RETIRED) then return 0 end

call('HINCRBY', RETIRED, 'streams', 1)
for i = 1, #fields, 2 do
	if find(fields[i], '^%d+$') or fields[i] == 'dead' then
		call('HINCRBY', RETIRED, fields[i], fields[i + 1])
	end
end
call('HSET', RETIRED, 's:' .. ARGV[1], 1) -- to be known should it come back
call('SREM', STREAMS, ARGV[1])
call('DEL', CURSOR)
return 1
