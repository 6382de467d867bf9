-- Ends reservations.
--
-- KEYS   ready, reserved, delayed, dead, unique
-- ARGV   the settlements, one after the other:
--        d number members                 delete so many
--        r member body delay              release after delay in ms
--        f member body                    release to the head of the queue; those
--                                         of one call keep their order
--        b member body                    bury
--        u id key                         free the unique key of the settlement before
--        A member of '' was deleted when it was popped: there is nothing to remove.
-- Result the numbers, from 1, of the settlements that found no reservation

local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local call, reserved = redis.call, KEYS[2] -- looked up once: a call is most of what a job costs here
local count, missed, heads, i = 0, {}, {}, 1
local held

-- Adds a body to a sorted set, which holds each only once: one that is there
-- already gets a token. Two jobs may have the same id, if the program chose it.
local function add(key, score, body)
  local token = 0
  while call('ZADD', key, 'NX', score, body) == 0 do
    local _, count = string.find(body, '"n":%d+')
    local _, stale = string.find(body, '^,"r":"[^"\\]*"', count + 1)
    token = token + 1
    body = string.sub(body, 1, count) .. ',"r":"' .. token .. '"' .. string.sub(body, (stale or count) + 1)
  end
end

while i <= #ARGV do
  local op, member = ARGV[i], ARGV[i + 1]
  if op == 'd' then
    local last = i + 1 + member
    for at = i + 2, last do
      count = count + 1
      held = ARGV[at] == '' or call('ZREM', reserved, ARGV[at]) == 1
      if not held then missed[#missed + 1] = count end
    end
    i = last + 1
  elseif op == 'u' then
    local key = ARGV[i + 2]
    local holder = held and call('HGET', KEYS[5], key)
    if holder and string.sub(holder, string.find(holder, ' ', 1, true) + 1) == member then
      call('HDEL', KEYS[5], key)
    end
    i = i + 3
  else
    count = count + 1
    held = member == '' or call('ZREM', reserved, member) == 1
    if not held then
      missed[#missed + 1] = count
    elseif op == 'f' then
      heads[#heads + 1] = ARGV[i + 2]
    elseif op == 'b' then
      add(KEYS[4], string.format('%.6f', now), ARGV[i + 2])
    elseif op == 'r' and tonumber(ARGV[i + 3]) <= 0 then
      call('RPUSH', KEYS[1], ARGV[i + 2])
    elseif op == 'r' then
      add(KEYS[3], string.format('%.6f', now + ARGV[i + 3] / 1000), ARGV[i + 2])
    end
    i = i + (op == 'r' and 4 or 3)
  end
end
for n = #heads, 1, -1 do
  call('LPUSH', KEYS[1], heads[n])
end
return missed
