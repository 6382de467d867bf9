-- Adds a job unless its unique key is held.
--
-- KEYS   ready, delayed, unique: a hash from key to "<unix seconds when it ends, 0: never> <id>"
-- ARGV   1 key, 2 id, 3 how long it is held in ms (0: no limit), 4 delay in ms, 5 body
-- Result '' or the id of the job that holds the key

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local holder = redis.call('HGET', KEYS[3], ARGV[1])
if holder then
  local gap = string.find(holder, ' ', 1, true)
  local till = tonumber(string.sub(holder, 1, gap - 1))
  if till == 0 or till > now then
    return string.sub(holder, gap + 1)
  end
end

if tonumber(ARGV[4]) > 0 then
  redis.call('ZADD', KEYS[2], string.format('%.6f', now + ARGV[4] / 1000), ARGV[5])
else
  redis.call('RPUSH', KEYS[1], ARGV[5])
end
local till = tonumber(ARGV[3]) > 0 and string.format('%.6f', now + ARGV[3] / 1000) or '0'
redis.call('HSET', KEYS[3], ARGV[1], till .. ' ' .. ARGV[2])
return ''
