-- Adds the jobs of ticks, each once.
--
-- KEYS   ready, schedule: a hash from name to "<unix ms of the last tick> <spec>", unique
-- ARGV   the ticks, one after the other:
--        1 schedule, 2 unix ms, 3 spec, 4 body; '': begin the schedule
--        5 unique key ('': none), 6 id, 7 how long the key is held in ms (0: no limit)
-- Result {unix ms now, then for each tick: 1 if its job was added else 0,
--        unix ms of the schedule's last tick or -1}

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Adds a job unless its unique key is held, as unique.lua does.
local function add(body, key, id, ttl)
  local seconds = clock[1] + clock[2] / 1000000
  local holder = key ~= '' and redis.call('HGET', KEYS[3], key)
  if holder then
    local till = tonumber(string.match(holder, '^%S+'))
    if till == 0 or till > seconds then return 0 end
  end
  redis.call('RPUSH', KEYS[1], body)
  if key ~= '' then
    local till = ttl > 0 and string.format('%.6f', seconds + ttl / 1000) or '0'
    redis.call('HSET', KEYS[3], key, till .. ' ' .. id)
  end
  return 1
end

local result = {now}
for i = 1, #ARGV, 7 do
  local name, at, spec, body = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
  local last, old, added = -1, nil, 0
  local known = redis.call('HGET', KEYS[2], name)
  if known then
    local gap = string.find(known, ' ', 1, true)
    last, old = tonumber(string.sub(known, 1, gap - 1)), string.sub(known, gap + 1)
  end
  local news = body == '' and old ~= spec
  if news then
    last = math.max(last, now)
  elseif body ~= '' and last < at and at <= now then
    news, last = true, at
    added = add(body, ARGV[i + 4], ARGV[i + 5], tonumber(ARGV[i + 6]))
  end
  if news then
    redis.call('HSET', KEYS[2], name, string.format('%.0f', last) .. ' ' .. spec)
  end
  result[#result + 1] = added
  result[#result + 1] = last
end
return result
