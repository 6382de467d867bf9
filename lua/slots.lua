-- Takes slots of a limit.
--
-- KEYS   the limit: a sorted set of holders by the unix time when their slots end
-- ARGV   1 how many slots there are
--        2 for how long they are taken, in ms
--        3... the holders
-- Result {how many of the holders have a slot, ms until the first slot ends}

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local most, till = tonumber(ARGV[1]), string.format('%.6f', now + ARGV[2] / 1000)

-- First, also so that a full server lets ZADD pass.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now))

local held, taken = redis.call('ZCARD', KEYS[1]), 0
for i = 3, #ARGV do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    if held >= most then break end
    held = held + 1
  end
  redis.call('ZADD', KEYS[1], till, ARGV[i])
  taken = taken + 1
end

local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if taken > 0 then -- the key goes with its last slot
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(last[2] * 1000) + 1))
end
return {taken, first[2] and math.max(math.ceil((first[2] - now) * 1000), 1) or 0}
