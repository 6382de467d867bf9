-- Makes dead jobs READY.
--
-- KEYS   ready, dead
-- ARGV   dead member and the body it becomes, again and again
-- Result how many there were

local moved = 0
for i = 1, #ARGV, 2 do
  if redis.call('ZREM', KEYS[2], ARGV[i]) == 1 then
    redis.call('RPUSH', KEYS[1], ARGV[i + 1])
    moved = moved + 1
  end
end
return moved
