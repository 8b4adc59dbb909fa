//! What is done at once in Redis: a script runs whole or not at all, and nothing runs beside it.
//!
//! All keys of an app have its appid in braces, so in a cluster they are on one node. Every script is
//! given all of them, and the channel and the appid for telling that the board has changed:
//!
//! | key | what |
//! |---|---|
//! | 1 `…:claim` | `<fence>#<replica>`; it expires with the lease |
//! | 2 `…:record` | `state`, `about`, `version`, and when it was `saved` by the clock of Redis |
//! | 3 `…:letters` | questions between replicas, by their ids |
//! | 4 `…:version` | counts the changes of the others |
//! | 5 `…:fence` | counts the claims |

/// What each script begins with.
const PRELUDE: &str = "
local claim, record, letters, version, fence = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local function changed()
  redis.call('INCR', version)
  -- Who may not publish has written all the same; others look for changes too.
  redis.pcall('PUBLISH', ARGV[1], ARGV[2])
end
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
";

/// A script that is one of these, with the prelude.
pub(super) fn whole(script: &str) -> String {
    format!("{PRELUDE}{script}")
}

/// The board, and how old the record is.
pub(super) const BOARD: &str = "
local kept = redis.call('HMGET', record, 'state', 'about', 'version', 'saved')
local age = kept[4] and now() - tonumber(kept[4]) or 0
return {redis.call('GET', version), redis.call('GET', claim), kept[1], kept[2], kept[3], age,
        redis.call('HGETALL', letters)}
";

/// `replica`, `lease` in milliseconds. Takes the claim if it is free.
pub(super) const CLAIM: &str = "
if redis.call('EXISTS', claim) == 1 then return 0 end
local mine = redis.call('INCR', fence) .. '#' .. ARGV[3]
redis.call('SET', claim, mine, 'PX', ARGV[4])
changed()
return 1
";

/// `claim`, `lease`. Prolongs the claim; 0 if it is over.
pub(super) const RENEW: &str = "
if redis.call('GET', claim) ~= ARGV[3] then return 0 end
redis.call('PEXPIRE', claim, ARGV[4])
return 1
";

/// `claim`. Gives the claim up.
pub(super) const RELEASE: &str = "
if redis.call('GET', claim) ~= ARGV[3] then return 0 end
redis.call('DEL', claim)
changed()
return 1
";

/// `claim`, `version`, `state`, `about`. Replaces the record; its new version, -1 if the claim is over,
/// -2 if it is another record.
pub(super) const POST: &str = "
if redis.call('GET', claim) ~= ARGV[3] then return -1 end
if (redis.call('HGET', record, 'version') or '0') ~= ARGV[4] then return -2 end
local new = ARGV[4] + 1
redis.call('HSET', record, 'state', ARGV[5], 'about', ARGV[6], 'version', new, 'saved', now())
changed()
return new
";

/// `id`, `letter`. A minute after the last one was sent, all that are left are gone.
pub(super) const SEND: &str = "
redis.call('HSET', letters, ARGV[3], ARGV[4])
redis.call('PEXPIRE', letters, 60000)
changed()
return 1
";

/// `id`, `letter`. Replaces one that is still there.
pub(super) const REPLY: &str = "
if redis.call('HEXISTS', letters, ARGV[3]) == 0 then return 0 end
redis.call('HSET', letters, ARGV[3], ARGV[4])
changed()
return 1
";

/// `id`.
pub(super) const DISCARD: &str = "
if redis.call('HDEL', letters, ARGV[3]) == 1 then changed() end
return 1
";
