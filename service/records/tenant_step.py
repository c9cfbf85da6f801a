"""The Lua code at the start of every step that writes under a tenant's prefix.

It ends the step if the tenant has no record. It defines functions for the rest of the step:

* `intend`, `named`, `drop`: notes of files (see `service.records.deletion`).
* `revision()`: a name that sorts by its time.
* `account`, `unaccount`, `accounted`: the bytes of the tenant's records. They have a quota, since
  Redis keeps them in memory.
* `former`: remembers the last version number of an adapter that has no version.
"""

# How many adapters without a version keep their last version number. If there are more, the oldest
# are forgotten and their largest number is kept: every new adapter then starts after it.
FORMER_ADAPTERS = 1000

TENANT_STEP = f"""
local tenants, unnamed, deleting, own, tenant = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
if redis.call('hexists', tenants, tenant) == 0 then return redis.error_reply('NOTENANT gone') end
local KEYS, ARGV = {{unpack(KEYS, 5)}}, {{unpack(ARGV, 2)}}

local function intend(path, seconds)
  if redis.call('zscore', deleting, path) then return false end
  redis.call('zadd', unnamed, redis.call('time')[1] + seconds, path)
  return true
end
local function named(path) return redis.call('zrem', unnamed, path) == 1 end
local function drop(path) if path ~= '' then redis.call('zadd', unnamed, 0, path) end end
local function revision()
  local clock = redis.call('time')
  return string.format('%010d%06d', clock[1], clock[2])
end

local sizes = own .. ':record-bytes' -- by `dataset:ID` and `adapter:NAME`, and the total
local function account(owner, bytes)
  local part = string.match(owner, '[^:]+:[^:]+$')
  if redis.call('hincrby', sizes, part, bytes) <= 0 then redis.call('hdel', sizes, part) end
  redis.call('hincrby', sizes, 'total', bytes)
end
local function unaccount(owner)
  local part = string.match(owner, '[^:]+:[^:]+$')
  redis.call('hincrby', sizes, 'total', -(redis.call('hget', sizes, part) or 0))
  redis.call('hdel', sizes, part)
end
local function accounted() return tonumber(redis.call('hget', sizes, 'total')) end
local function account_all(owner, records)
  local cursor = '0'
  repeat
    local found = redis.call('hscan', records, cursor, 'COUNT', 1000)
    cursor = found[1]
    for i = 2, #found[2], 2 do account(owner, #found[2][i]) end
  until cursor == '0'
end
if redis.call('hsetnx', sizes, 'total', 0) == 1 then -- an earlier release did not count
  for _, id in ipairs(redis.call('zrange', own .. ':datasets', 0, -1)) do
    account_all(own .. ':dataset:' .. id, own .. ':dataset:' .. id .. ':images')
  end
  for _, name in ipairs(redis.call('zrange', own .. ':adapters', 0, -1)) do
    account_all(own .. ':adapter:' .. name, own .. ':adapter:' .. name .. ':versions')
  end
end

local function former(adapter)
  local names, last_of_all = own .. ':former-adapters', own .. ':last-number'
  local clock = redis.call('time')
  redis.call('zadd', names, clock[1] + clock[2] / 1000000, adapter)
  while redis.call('zcard', names) > {FORMER_ADAPTERS} do
    local oldest = own .. ':adapter:' .. redis.call('zpopmin', names)[1]
    local last = tonumber(redis.call('hget', oldest, 'next') or 0)
    if last > tonumber(redis.call('get', last_of_all) or 0) then
      redis.call('set', last_of_all, last)
    end
    redis.call('del', oldest)
  end
end
"""
