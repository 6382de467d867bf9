-- Removes the jobs of one state.
--
-- KEYS   the jobs (a list or a sorted set), unique
-- ARGV   how many to remove at most where keys may have to be freed
-- Result {how many were removed, body, ...}: the bodies only where jobs of the
--        queue hold unique keys, for the caller to free them

local list = redis.call('TYPE', KEYS[1]).ok == 'list'
if redis.call('EXISTS', KEYS[2]) == 0 then
  local count = redis.call(list and 'LLEN' or 'ZCARD', KEYS[1])
  redis.call('UNLINK', KEYS[1])
  return {count}
end

local bodies = redis.call(list and 'LRANGE' or 'ZRANGE', KEYS[1], 0, ARGV[1] - 1)
if list then
  redis.call('LTRIM', KEYS[1], #bodies, -1)
elseif #bodies > 0 then
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, #bodies - 1)
end
return {#bodies, unpack(bodies)}
