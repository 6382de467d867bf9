-- Makes READY what is due, then reserves jobs.
--
-- KEYS   ready, reserved, delayed
-- ARGV   1 how many jobs to reserve
--        2 lease in ms; 0 deletes the jobs instead
--        3 a text that no other call has used: it starts every token
--        4 how many jobs to move to READY at most, from each set
-- Result {ms until the next job is due, body, ...}
--        ms is -1 if none will be, 0 if there is more to do at once
--
-- A body leaves with linda's bookkeeping as its first member: one more delivery
-- and a new token, put in as text so that the rest stays as it is. The token
-- makes each reservation another member of the set, which is what fences it.

if redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) == 0 then
  return {-1}
end

local want, lease, nonce, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local space = '^[ \t\r\n]*'
local most_bytes, chunk = 8388608, 200

local more = false
for i = 2, 3 do
  local due = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', string.format('%.6f', now), 'LIMIT', 0, limit)
  if #due > 0 then
    redis.call('LTRIM', KEYS[1], 0, -1) -- changes nothing; after it a full server lets RPUSH pass
  end
  for from = 1, #due, chunk do
    local to = math.min(from + chunk - 1, #due)
    redis.call('RPUSH', KEYS[1], unpack(due, from, to))
    redis.call('ZREM', KEYS[i], unpack(due, from, to))
  end
  more = more or #due == limit
end

local function delivered(body, token)
  local _, last, n = string.find(body, space .. '{"linda":{"id":"[^"\\]+","n":(%d+)')
  if last and #n <= 15 and string.find(body, '^[,}]', last + 1) then
    local _, stale = string.find(body, '^,"r":"[^"\\]*"', last + 1)
    return string.sub(body, 1, last - #n) .. string.format('%d', n + 1)
      .. ',"r":"' .. token .. '"' .. string.sub(body, (stale or last) + 1)
  end
  local head = '"linda":{"id":"' .. token .. '","n":1,"r":"' .. token .. '"'
  local _, brace = string.find(body, space .. '{')
  if not brace then -- not a JSON object: it goes behind one
    return '{' .. head .. ',"raw":1}}' .. body
  end
  local comma = string.find(body, space .. '}', brace + 1) and '' or ','
  return string.sub(body, 1, brace) .. head .. '}' .. comma .. string.sub(body, brace + 1)
end

local result, bytes = {0}, 0
while #result <= want and bytes < most_bytes do
  local got = #result - 1
  local bodies = redis.call('LRANGE', KEYS[1], got, math.min(got + chunk, want) - 1)
  for _, body in ipairs(bodies) do
    bytes = bytes + #body
    result[#result + 1] = delivered(body, nonce .. '.' .. #result)
    if bytes >= most_bytes then break end
  end
  if #bodies < chunk then break end
end

if #result > 1 then
  redis.call('LTRIM', KEYS[1], #result - 1, -1)
  if lease > 0 then
    local till = string.format('%.6f', now + lease / 1000)
    for from = 2, #result, chunk do
      local scored = {}
      for i = from, math.min(from + chunk - 1, #result) do
        scored[#scored + 1] = till
        scored[#scored + 1] = result[i]
      end
      redis.call('ZADD', KEYS[2], unpack(scored))
    end
  end
elseif not more then
  local next_due
  for i = 2, 3 do
    local first = redis.call('ZRANGE', KEYS[i], 0, 0, 'WITHSCORES')
    if first[2] and (not next_due or tonumber(first[2]) < next_due) then
      next_due = tonumber(first[2])
    end
  end
  -- A job that is due a year from now is as good as none.
  result[1] = next_due and math.min(math.max(math.ceil((next_due - now) * 1000), 1), 31536000000) or -1
end
return result
