-- Looks for a job in a part of a list or sorted set.
--
-- KEYS   the jobs
-- ARGV   1 id, 2 from which index on, 3 how many to look at
-- Result {how many there were to look at, body if it was found}

local list = redis.call('TYPE', KEYS[1]).ok == 'list'
local from = tonumber(ARGV[2])
local bodies = redis.call(list and 'LRANGE' or 'ZRANGE', KEYS[1], from, from + ARGV[3] - 1)
local head = '"linda":{"id":"' .. ARGV[1] .. '"'
for _, body in ipairs(bodies) do
  local _, brace = string.find(body, '^[ \t\r\n]*{')
  if brace and string.sub(body, brace + 1, brace + #head) == head then
    return {#bodies, body}
  end
end
return {#bodies}
