-- Adds jobs, some of them with a delay.
--
-- KEYS   ready, delayed
-- ARGV   delay in ms and body, again and again

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
for i = 1, #ARGV, 2 do
  if tonumber(ARGV[i]) > 0 then
    redis.call('ZADD', KEYS[2], string.format('%.6f', now + ARGV[i] / 1000), ARGV[i + 1])
  else
    redis.call('RPUSH', KEYS[1], ARGV[i + 1])
  end
end
return #ARGV / 2
