-- Makes READY what is due, then reserves jobs, of one queue or several.
--
-- KEYS   ready, reserved, delayed, paused; repeated for each queue
-- ARGV   1 how many jobs to reserve altogether, of the first queue first
--        2 lease in ms; 0 deletes the jobs instead
--        3 a text that no other call has used: it starts every token
--        4 how many jobs to move to READY at most, from each set
-- Result for each queue an error, or {ms until the next job is due, body, ...}
--        ms is -1 if none will be, 0 if there is more to do at once, -2 if the
--        queue is paused and not empty
--
-- A body leaves with linda's bookkeeping as its first member: one more delivery
-- and a new token, put in as text so that the rest stays as it is. The token
-- makes each reservation another member of the set, which is what fences it.

local want, lease, nonce, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local most_bytes, chunk = 8388608, 200

local find, sub, gsub = string.find, string.sub, string.gsub
local fresh = '^({"linda":{"id":"[^"\\]+","n":)0}'
local counted = '^[ \t\r\n]*{"linda":{"id":"[^"\\]+","n":(%d+)[,}]'

local function delivered(body, token)
  -- Nearly every job, as Push wrote it. This is half of what a fetch costs.
  local first, is_fresh = gsub(body, fresh, '%11,"r":"' .. token .. '"}')
  if is_fresh == 1 then
    return first
  end
  local _, last, n = find(body, counted)
  if last and #n <= 15 then
    last = last - 1 -- of the digits
    local _, stale = find(body, '^,"r":"[^"\\]*"', last + 1)
    return sub(body, 1, last - #n) .. string.format('%d', n + 1)
      .. ',"r":"' .. token .. '"' .. sub(body, (stale or last) + 1)
  end
  local head = '"linda":{"id":"' .. token .. '","n":1,"r":"' .. token .. '"'
  local _, brace = find(body, '^[ \t\r\n]*{')
  if not brace then -- not a JSON object: it goes behind one
    return '{' .. head .. ',"raw":1}}' .. body
  end
  local comma = find(body, '^[ \t\r\n]*}', brace + 1) and '' or ','
  return sub(body, 1, brace) .. head .. '}' .. comma .. sub(body, brace + 1)
end

local reserved, bytes = 0, 0 -- of all queues
local now -- not asked for while all queues are empty

local function serve(ready, held, delayed, paused)
  if redis.call('EXISTS', ready, held, delayed) == 0 then
    return {-1}
  end
  if redis.call('EXISTS', paused) == 1 then
    return {-2}
  end
  -- A key of another type is an error here, before anything is changed.
  redis.call('LLEN', ready)
  redis.call('ZCARD', held)
  if not now then
    local clock = redis.call('TIME')
    now = clock[1] + clock[2] / 1000000
  end

  local more = false
  for _, key in ipairs({held, delayed}) do
    local due = redis.call('ZRANGEBYSCORE', key, '-inf', string.format('%.6f', now), 'LIMIT', 0, limit)
    for from = 1, #due, chunk do
      local to = math.min(from + chunk - 1, #due)
      -- A server that is out of memory refuses RPUSH, but not to a script that
      -- has begun by removing something. So ZREM is first.
      redis.call('ZREM', key, unpack(due, from, to))
      redis.call('RPUSH', ready, unpack(due, from, to))
    end
    more = more or #due == limit
  end

  local result = {0}
  local most = want - reserved
  while #result <= most and bytes < most_bytes do
    local got = #result - 1
    local bodies = redis.call('LRANGE', ready, got, math.min(got + chunk, most) - 1)
    for _, body in ipairs(bodies) do
      bytes = bytes + #body
      result[#result + 1] = delivered(body, nonce .. '.' .. reserved + #result)
      if bytes >= most_bytes then break end
    end
    if #bodies < chunk then break end
  end

  if #result > 1 then
    redis.call('LTRIM', ready, #result - 1, -1)
    if lease > 0 then
      local till = string.format('%.6f', now + lease / 1000)
      for from = 2, #result, chunk do
        local scored = {}
        for i = from, math.min(from + chunk - 1, #result) do
          scored[#scored + 1] = till
          scored[#scored + 1] = result[i]
        end
        redis.call('ZADD', held, unpack(scored))
      end
    end
    reserved = reserved + #result - 1
  elseif not more then
    local next_due
    for _, key in ipairs({held, delayed}) do
      local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
      if first[2] and (not next_due or tonumber(first[2]) < next_due) then
        next_due = tonumber(first[2])
      end
    end
    -- A job that is due a year from now is as good as none.
    result[1] = next_due and math.min(math.max(math.ceil((next_due - now) * 1000), 1), 31536000000) or -1
  end
  return result
end

local results = {}
for i = 1, #KEYS, 4 do
  if i > 1 and (reserved >= want or bytes >= most_bytes) then
    results[#results + 1] = {0} -- it was not looked at
  else
    -- A queue that fails must not take the jobs of the others with it.
    local ok, result = pcall(serve, KEYS[i], KEYS[i + 1], KEYS[i + 2], KEYS[i + 3])
    if not ok and type(result) ~= 'table' then
      result = redis.error_reply(tostring(result))
    end
    results[#results + 1] = result
  end
end
return results
