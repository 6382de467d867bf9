-- Makes READY what is due, then reserves jobs, of one queue or several.
--
-- KEYS   ready, reserved, delayed, paused; repeated for each queue
-- ARGV   1 how many jobs to reserve altogether, of the first queue first
--        2 lease in ms; 0 deletes the jobs instead
--        3 a text that no other call has used: it starts every id and token
--        4 how many jobs to move to READY at most, from each set
-- Result for each queue an error, or {ms until the next job is due, body, ...}
--        ms is -1 if none will be, 0 if there is more to do at once, -2 if the
--        queue is paused and not empty
--
-- A body is reserved as it is, and the text of the whole is what fences the
-- reservation: no two jobs have the same, since each has an id of its own or a
-- token besides, and a job whose reservation ends is one delivery further. Only
-- a body that no linda has written, or that is there twice, is changed, as text,
-- so that the rest stays as it is.

local want, lease, nonce, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local most_bytes, chunk = 8388608, 200

local find, sub = string.find, string.sub
local open = '{"linda":{"id":"'

-- Returns where the count of deliveries ends in a body, and the count. A pattern
-- for the whole header would take several times as long.
local function count(body)
  local id = 17
  if sub(body, 1, 16) ~= open then
    local _, last = find(body, '^[ \t\r\n]*' .. open)
    if not last then return end
    id = last + 1
  end
  local quote = find(body, '"', id, true)
  if not quote or quote == id or string.byte(body, quote - 1) == 92 then return end
  if sub(body, quote, quote + 7) == '","n":0}' then return quote + 6, '0' end -- of nearly every job
  local _, behind, n = find(body, '^","n":(%d+)[,}]', quote)
  if behind and #n <= 15 then return behind - 1, n end
end

-- Reports whether the last delivery of a job ended without a word from its
-- worker, given what count returns.
local function crashed(body, last, n)
  if not n or n == '0' then return false end
  local _, token = find(body, '^,"r":"[^"\\]*"', last + 1)
  local _, _, settled = find(body, '^,"s":(%d+)', (token or last) + 1)
  return tonumber(n) > tonumber(settled or 0)
end

-- Returns the body of a job whose reservation has ended: the delivery counts.
local function ended(body)
  local last, n = count(body)
  if not last then return body end
  return sub(body, 1, last - #n) .. string.format('%d', n + 1) .. sub(body, last + 1)
end

-- Returns a body that is like no other.
local function apart(body, token)
  local last = count(body)
  if last then
    local _, stale = find(body, '^,"r":"[^"\\]*"', last + 1)
    return sub(body, 1, last) .. ',"r":"' .. token .. '"' .. sub(body, (stale or last) + 1)
  end
  local head = '"linda":{"id":"' .. token .. '","n":0'
  local _, brace = find(body, '^[ \t\r\n]*{')
  if not brace then -- not a JSON object: it goes behind one
    return '{' .. head .. ',"raw":1}}' .. body
  end
  local comma = find(body, '^[ \t\r\n]*}', brace + 1) and '' or ','
  return sub(body, 1, brace) .. head .. '}' .. comma .. sub(body, brace + 1)
end

local reserved, bytes = 0, 0 -- of all queues
local full = false -- nothing more goes with this fetch
local now -- not asked for while all queues are empty

-- Reserves the bodies of a result between two indices. One that is reserved
-- already, or that was before it in result, is a job of its own and gets a token.
local function reserve(key, result, from, to, till)
  local scored, size = {}, 0
  for i = from, to do
    scored[size + 1], scored[size + 2] = till, result[i]
    size = size + 2
  end
  if redis.call('ZADD', key, 'NX', unpack(scored)) == to - from + 1 then return end
  local added, seen = {}, {}
  for _, body in ipairs(redis.call('ZRANGEBYSCORE', key, till, till)) do added[body] = true end
  for i = 2, to do
    if i >= from and (seen[result[i]] or not added[result[i]]) then
      result[i] = apart(result[i], nonce .. '.' .. reserved + i)
      redis.call('ZADD', key, till, result[i])
    end
    seen[result[i]] = true
  end
end

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
      if key == held then
        for at = from, to do due[at] = ended(due[at]) end
      end
      redis.call('RPUSH', ready, unpack(due, from, to))
    end
    more = more or #due == limit
  end

  local result, got = {0}, 0
  local most = want - reserved
  while got < most and not full do
    local bodies = redis.call('LRANGE', ready, got, math.min(got + chunk, most) - 1)
    for _, body in ipairs(bodies) do
      local last, n = count(body)
      -- A job that crashed goes alone: if this reply is lost, or the process ends
      -- before it has looked at it, no other job is held to have crashed with it.
      local alone = crashed(body, last, n)
      full = alone
      if alone and reserved + got > 0 then break end
      got = got + 1
      bytes = bytes + #body
      result[got + 1] = last and body or apart(body, nonce .. '.' .. reserved + got)
      full = alone or bytes >= most_bytes
      if full then break end
    end
    if #bodies < chunk then break end
  end

  if got > 0 then
    redis.call('LTRIM', ready, got, -1)
    if lease > 0 then
      local till = string.format('%.6f', now + lease / 1000)
      for from = 2, got + 1, chunk do
        reserve(held, result, from, math.min(from + chunk - 1, got + 1), till)
      end
    end
    reserved = reserved + got
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
  if i > 1 and (reserved >= want or full) then
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
