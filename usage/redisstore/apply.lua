-- Takes one batch of a stream in: all of it or nothing.
--
-- KEYS: the stream's cursor, genesis, streams, months, late, dead letters; then of
--       each bucket its index and its rows.
-- ARGV: stream, epoch, from, to, chain, the record before the epoch and the chain
--       there, a genesis should there be none, the number of buckets; then of each
--       bucket: when it expires (0: never), its letter among the late ones (may be
--       empty), its month if it is one, and its rows: for each a list of fields,
--       every one followed by its increment; at last such a list for the stream's
--       totals. Lists are in MessagePack.
--
-- Numbers stay strings throughout: Lua would round them beyond 2^53.

local A, K = ARGV, KEYS
local call, try, find, unpack = redis.call, redis.pcall, string.find, cmsgpack.unpack
local CURSOR, GENESIS, STREAMS, MONTHS, LATE, LETTERS = K[1], K[2], K[3], K[4], K[5], K[6]
local stream, epoch, from, to, chain, since, before = A[1], A[2], A[3], A[4], A[5], A[6], A[7]

local function kind(key) return call('TYPE', key).ok end

-- less compares two decimal numbers without sign.
local function less(a, b) return #a < #b or (#a == #b and a < b) end

-- First look, so that nothing has been written when something is wrong.

for key, want in pairs({[CURSOR] = 'hash', [GENESIS] = 'string', [STREAMS] = 'set', [MONTHS] = 'set'}) do
	local is = kind(key)
	if is ~= 'none' and is ~= want then
		return redis.error_reply('FOREIGN the key ' .. key .. ' holds a ' .. is)
	end
end

local genesis = call('GET', GENESIS)
if genesis and string.sub(genesis, 1, 2) ~= '1 ' then
	return redis.error_reply('LAYOUT the key ' .. GENESIS .. ' names another layout')
end

local at = call('HMGET', CURSOR, 'epoch', 'seq')
if less(epoch, at[1] or '0') then
	return {'FENCED', call('HGETALL', CURSOR)}
end
if from ~= (at[2] or '0') then
	return {'MISMATCH', call('HGETALL', CURSOR)}
end

local function wrong(increments)
	for i = 2, #increments, 2 do
		if not find(increments[i], '^-?%d+$') then return true end
	end
	return #increments % 2 ~= 0
end
local kinds, buckets = {}, {}
local a, k = 10, 6
for b = 1, tonumber(A[9]) do
	local rows = unpack(A[a + 3])
	for i = k + 1, k + 1 + #rows do kinds[i] = kind(K[i]) end
	for i = 1, #rows do
		if wrong(rows[i]) then return redis.error_reply('ERR malformed increment') end
	end
	buckets[b] = rows
	a = a + 4
	k = k + 1 + #rows
end
local totals = unpack(A[a])
if a ~= #A or k ~= #K or wrong(totals) then
	return redis.error_reply('ERR malformed batch')
end

-- Then write. The first write is one that fails as a whole where there is no
-- memory left or the server takes no writes; after it nothing fails for that.

call('SADD', STREAMS, stream)
if not genesis then call('SET', GENESIS, A[8]) end

local now = call('TIME')[1]
local dead = 0

-- bury puts an increment aside that cannot be booked.
local function bury(where, field, delta, reason)
	dead = dead + 1
	if dead <= 1000 then
		reason = string.gsub(string.sub(reason, 1, 120), '%c', ' ')
		try('RPUSH', LETTERS, table.concat({now, stream, field, delta, reason, where}, '\n'))
	end
end

-- raise books one row on a hash. letter goes before the fields, if there is one.
local function raise(key, increments, where, letter)
	for i = 1, #increments, 2 do
		local field = increments[i]
		if letter then field = letter .. field end
		local answer = try('HINCRBY', key, field, increments[i + 1])
		if type(answer) == 'table' and answer.err then
			bury(where, increments[i], increments[i + 1], answer.err)
		end
	end
end

a, k = 10, 6
for b = 1, #buckets do
	local rows, expires, late, month = buckets[b], A[a], A[a + 1], A[a + 2]
	k = k + 1
	local index, indexed = K[k], kinds[k]
	if expires ~= '0' and not less(now, expires) then
		if late ~= '' then
			for i = 1, #rows do raise(LATE, rows[i], K[k + i], late) end
		end
	elseif indexed ~= 'none' and indexed ~= 'set' then
		-- Rows that no index names would be lost to every reader.
		for i = 1, #rows do
			for j = 1, #rows[i], 2 do
				bury(K[k + i], rows[i][j], rows[i][j + 1], 'the key ' .. index .. ' holds a ' .. indexed)
			end
		end
	else
		for i = 1, #rows do
			local row, new = K[k + i], kinds[k + i] == 'none'
			if new then call('SADD', index, string.sub(row, #index + 2)) end
			raise(row, rows[i], row)
			if new and expires ~= '0' then call('EXPIREAT', row, expires) end
		end
		if expires ~= '0' then call('EXPIREAT', index, expires) end
		if month ~= '' then call('SADD', MONTHS, month) end
	end
	a = a + 4
	k = k + #rows
end
raise(CURSOR, totals, CURSOR)

if dead > 0 then
	try('LTRIM', LETTERS, -1000, -1)
	try('EXPIRE', LETTERS, 30 * 86400)
	try('HINCRBY', CURSOR, 'dead', dead)
end

call('HSET', CURSOR, 'epoch', epoch, 'seq', to, 'chain', chain, 'since', since, 'before', before, 'seen', now)
return {'OK', call('HGETALL', CURSOR)}
