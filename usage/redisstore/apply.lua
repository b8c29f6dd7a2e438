-- Takes one batch of a stream in: all of it or nothing.
--
-- KEYS: the stream's cursor, genesis, streams, months, late, dead letters; then of
--       each bucket its index and its rows.
-- ARGV: stream, epoch, from, to, chain, the record before the epoch and the chain
--       there, a genesis should there be none, the number of buckets; then of each bucket: when it expires (0: never), its letter
--       among the late ones (may be empty), its month if it is one, the number of
--       its rows, and of each row: the number of its increments, then pairs of
--       field and increment; at last the same for the stream's totals.
--
-- Numbers stay strings throughout: Lua would round them beyond 2^53.

local A, K = ARGV, KEYS
local call, try, find = redis.call, redis.pcall, string.find
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

local kinds = {}
local function numbers(a) -- those of one row are well-formed: where the next one is
	local last = a + 2 * tonumber(A[a])
	for i = a + 2, last, 2 do
		if not find(A[i], '^-?%d+$') then return nil end
	end
	return last + 1
end
local a, k = 10, 6
for _ = 1, tonumber(A[9]) do
	local rows = tonumber(A[a + 3])
	a = a + 4
	for i = k + 1, k + 1 + rows do kinds[i] = kind(K[i]) end
	k = k + 1 + rows
	for _ = 1, rows do
		a = numbers(a)
		if not a then return redis.error_reply('ERR malformed increment') end
	end
end
a = numbers(a)
if a ~= #A + 1 or k ~= #K then
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

-- raise books one row on a hash and returns where the next one is. letter goes
-- before the fields, if there is one.
local function raise(key, a, where, letter)
	local last = a + 2 * tonumber(A[a])
	for i = a + 1, last, 2 do
		local field = A[i]
		if letter then field = letter .. field end
		local answer = try('HINCRBY', key, field, A[i + 1])
		if type(answer) == 'table' and answer.err then
			bury(where, A[i], A[i + 1], answer.err)
		end
	end
	return last + 1
end

a, k = 10, 7
for _ = 1, tonumber(A[9]) do
	local expires, late, month, rows = A[a], A[a + 1], A[a + 2], tonumber(A[a + 3])
	local index = K[k]
	a = a + 4
	if expires ~= '0' and not less(now, expires) then
		for i = k + 1, k + rows do
			if late == '' then
				a = a + 1 + 2 * tonumber(A[a])
			else
				a = raise(LATE, a, K[i], late)
			end
		end
	elseif kinds[k] ~= 'none' and kinds[k] ~= 'set' then
		-- Rows that no index names would be lost to every reader.
		for i = k + 1, k + rows do
			local last = a + 2 * tonumber(A[a])
			for j = a + 1, last, 2 do
				bury(K[i], A[j], A[j + 1], 'the key ' .. index .. ' holds a ' .. kinds[k])
			end
			a = last + 1
		end
	else
		for i = k + 1, k + rows do
			local row, new = K[i], kinds[i] == 'none'
			if new then call('SADD', index, string.sub(row, #index + 2)) end
			a = raise(row, a, row)
			if new and expires ~= '0' then call('EXPIREAT', row, expires) end
		end
		if expires ~= '0' then call('EXPIREAT', index, expires) end
		if month ~= '' then call('SADD', MONTHS, month) end
	end
	k = k + 1 + rows
end
raise(CURSOR, a, CURSOR)

if dead > 0 then
	try('LTRIM', LETTERS, -1000, -1)
	try('EXPIRE', LETTERS, 30 * 86400)
	try('HINCRBY', CURSOR, 'dead', dead)
end

call('HSET', CURSOR, 'epoch', epoch, 'seq', to, 'chain', chain, 'since', since, 'before', before, 'seen', now)
return {'OK', call('HGETALL', CURSOR)}
