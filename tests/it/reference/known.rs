//! What anybody could know of a token who saw all that happened to it, and what follows from that.
//!
//! Written from the house's rules: numbers stand here again, in milliseconds, and not by the names that the
//! implementation has for them.

use super::{events::Kind, life::Meant};

pub(super) const SECOND: u64 = 1000;
pub(super) const LIFE: u64 = 7200 * SECOND;
pub(super) const TIMEOUT: u64 = 10 * SECOND;
const OVERLAP: u64 = 300 * SECOND;
const FLOOR: u64 = SECOND;
const FIRST_LOOK: u64 = 5 * SECOND;
const FORCED_APART: u64 = 30 * SECOND;
const FORCED_A_DAY: u32 = 20;
const DAY: i64 = 86_400_000;
const BEIJING: i64 = 8 * 3_600_000;

#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "most of what is known is yes or no"
)]
pub(super) struct Known {
    pub(super) kind: Kind,
    pub(super) token: Option<Token>,
    /// An old note was found, and nothing heard since: nobody can tell whether the token lives.
    pub(super) in_doubt: bool,
    /// Until when the look that shall tell is waited for.
    pub(super) first_look: Option<u64>,
    pub(super) dead: bool,
    /// Looks in a row that were refused, and how many of them without a fetch in between.
    refused: u32,
    refused_without_fetch: u32,
    pub(super) alive_at: Option<u64>,
    /// When a look last gave no verdict, and whether WeChat answered it.
    pub(super) blurred: Option<(u64, bool)>,
    pub(super) fetch: Option<Fetch>,
    /// Since when WeChat may have made a token that did not arrive.
    pub(super) open: Option<u64>,
    /// When it may have done so last: what is on disk says only when it may have begun.
    last: u64,
    /// Whether it has answered a look since.
    heard: bool,
    /// The highest generation that was shown or reserved.
    pub(super) highest: u64,
    /// When WeChat made a token for the last time, as far as one can tell, at the latest.
    minted: Option<u64>,
    /// When a token was last made to replace a dead one, and how many in a row were.
    replaced: Option<u64>,
    streak: u32,
    spent: (i64, u32),
    forced: Option<u64>,
    /// When the last fetch failed, and the longest that its class pauses.
    pub(super) failed: Option<(u64, u64)>,
    /// Until when WeChat said that it refuses this server: remembered over restarts.
    pub(super) blocked: Option<u64>,
    answered: u64,
    /// Mints that are still wanted to kill a leaked token.
    pub(super) leaked: u8,
    /// What the token replaced.
    before: Before,
    /// The last fetch was begun only because a complaint could not be looked into.
    doubted: bool,
    /// The longest that a caller may keep the token, as it was told while all was well.
    promised: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) value: u32,
    pub(super) generation: u64,
    /// The number that it had when this process came to know it.
    pub(super) first: u64,
    pub(super) asked: u64,
    pub(super) arrived: u64,
    pub(super) expires: u64,
}

/// What a token replaced.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// That was before a restart.
    Unknown,
    Nothing,
    Was(Token),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    pub(super) sent: u64,
    pub(super) forced: bool,
    pub(super) reserved: Option<u64>,
    /// It was begun because something is wrong with the token, and counts against the budget.
    pub(super) spends: bool,
}

/// What a note says before WeChat is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noted {
    pub(super) reserved: u64,
    /// How much was spent on which day, counted from 1970 in Beijing.
    pub(super) day: i64,
    pub(super) spent: u32,
}

/// The wall clock and the one that nobody can set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    pub(super) now: u64,
    pub(super) wall: i64,
}

impl Time {
    fn day(self) -> i64 {
        (self.wall + BEIJING).div_euclid(DAY)
    }

    fn until_midnight(self) -> u64 {
        u64::try_from(DAY - (self.wall + BEIJING).rem_euclid(DAY)).unwrap()
    }
}

impl Known {
    pub(super) fn nothing(kind: Kind) -> Self {
        Self {
            kind,
            token: None,
            in_doubt: false,
            first_look: None,
            dead: false,
            refused: 0,
            refused_without_fetch: 0,
            alive_at: None,
            blurred: None,
            fetch: None,
            open: None,
            last: 0,
            heard: false,
            highest: 0,
            minted: None,
            replaced: None,
            streak: 0,
            spent: (0, 0),
            forced: None,
            failed: None,
            blocked: None,
            answered: 0,
            leaked: 0,
            before: Before::Unknown,
            doubted: false,
            promised: 0,
        }
    }

    pub(super) fn living(&self, now: u64) -> Option<Token> {
        self.token.filter(|token| token.expires > now)
    }

    /// Whether a token that is not in force any more may work all the same.
    pub(super) fn outlives(&self, of: Meant, now: u64) -> bool {
        let in_force = self
            .living(now)
            .filter(|token| !self.dead && !of.is(*token));
        let Some(token) = in_force else {
            return false;
        };
        let older = match (self.before, of) {
            (Before::Nothing, _) => false,
            (Before::Was(before), _) if before.expires <= now => false,
            (Before::Was(before), Meant::Value(value)) => value == before.value,
            (Before::Was(before), Meant::Generation(generation)) => {
                generation >= before.first && generation < token.generation
            }
            (Before::Unknown, Meant::Value(value)) => value != token.value,
            (Before::Unknown, Meant::Generation(generation)) => generation < token.generation,
        };
        older && now < token.asked + OVERLAP
    }

    /// A fetch begins: may it?
    pub(super) fn asks(&mut self, time: Time, forced: bool, note: Option<Noted>) {
        let now = time.now;
        assert!(self.fetch.is_none(), "two fetches at a time");
        assert!(!forced || !self.kind.classic, "force in classic mode");
        assert_eq!(note.is_some(), self.kind.classic || forced, "the note");
        if let Some(Noted { reserved, .. }) = note {
            assert!(reserved > self.highest, "a reserved generation is taken");
            self.highest = reserved;
        }
        match self.living(now) {
            Some(token) if self.kind.classic => self.asks_for_classic(token, now),
            Some(_) if forced => {
                assert!(self.dead || self.leaked > 0, "force without a reason");
                let apart = self.forced.is_none_or(|at| now >= at + FORCED_APART);
                assert!(apart, "two forced refreshes within 30 s");
                self.forced = Some(now);
            }
            _ => assert!(!forced, "force although there is nothing to replace"),
        }
        let spends = self.spends(time, forced, note);
        self.refused_without_fetch = 0;
        if self.kind.classic || forced {
            self.refused = 0;
        }
        self.fetch = Some(Fetch {
            sent: now,
            forced,
            reserved: note.map(|note| note.reserved),
            spends,
        });
    }

    /// Whether the fetch that begins counts against the budget of the day, as its note has to say.
    fn spends(&mut self, time: Time, forced: bool, note: Option<Noted>) -> bool {
        let today = self.spent_today(time);
        let of_today = note.filter(|note| note.day == time.day());
        let noted = note.map_or(today, |_| of_today.map_or(0, |note| note.spent));
        let living = self.living(time.now).is_some();
        let must = forced || (self.kind.classic && living && self.is_wrong());
        let doubted = self.kind.classic && living && noted > today && self.in_the_dark(time.now);
        let spends = must || doubted;
        self.doubted |= doubted && !must;
        let expected = today + u32::from(spends);
        assert_eq!(noted, expected, "what the note says is spent");
        if spends {
            // An operator who says that a classic token leaked is obeyed, and it counts.
            let ordered = self.kind.classic && !self.dead && self.leaked > 0;
            let room = ordered || self.left(time) > 0;
            assert!(room, "more than the budget of the day");
            self.spent = (time.day(), expected);
        }
        spends
    }

    /// Whether there is a reason to replace the token before its time.
    fn is_wrong(&self) -> bool {
        self.dead || self.open.is_some() || self.leaked > 0
    }

    /// Whether a caller's complaint cannot be looked into because WeChat refuses the look.
    fn in_the_dark(&self, now: u64) -> bool {
        let recent = |(at, answered)| answered && now < at + 5 * SECOND;
        self.blurred.is_some_and(recent)
    }

    /// A classic token that works is about to be retired.
    fn asks_for_classic(&self, token: Token, now: u64) {
        let rule = |from: Option<u64>, span: u64| from.is_none_or(|from| now >= from + span);
        if self.dead {
            let gap = (30 * SECOND) << self.streak.saturating_sub(1).min(8);
            let streak = self.replaced.filter(|_| self.streak > 0);
            assert!(rule(streak, gap.min(OVERLAP)), "replacements too close");
        } else if self.leaked > 0 {
            // An operator wants it.
        } else if self.open.is_some() {
            let over = now >= self.last + OVERLAP;
            assert!(self.heard || over, "a blind fetch while suspect");
        } else {
            let spacing = OVERLAP.min((token.expires - token.asked) / 2);
            let last = Some(self.minted.unwrap_or(token.asked));
            assert!(rule(last, spacing), "voluntary refreshes too close");
            let dark = self.doubted || self.in_the_dark(now);
            let room = dark || self.promised <= now + OVERLAP - 10 * SECOND;
            assert!(room, "a caller was told to keep it for longer");
        }
    }

    /// A token came back: whether it is a new one, and whether it may be called somebody else's doing.
    pub(super) fn arrives(&mut self, time: Time, value: u32) -> bool {
        let now = time.now;
        let Some(fetch) = self.fetch.take() else {
            return false;
        };
        (self.failed, self.in_doubt, self.answered) = (None, false, now);
        (self.doubted, self.blocked) = (false, None);
        self.open = None;
        if self.token.is_some_and(|token| token.value == value) {
            return false;
        }
        if fetch.forced {
            // It may have been carried out as late as now.
            self.forced = Some(now);
        }
        self.streak = if fetch.spends { self.streak + 1 } else { 0 };
        if fetch.spends {
            self.replaced = Some(now);
        }
        self.minted = Some(now);
        self.leaked = self.leaked.saturating_sub(1);
        self.before = match self.token {
            None => Before::Unknown,
            Some(_) if self.dead => Before::Nothing,
            Some(token) => Before::Was(token),
        };
        self.is_new();
        true
    }

    fn is_new(&mut self) {
        (self.dead, self.promised) = (false, 0);
        (self.alive_at, self.blurred) = (None, None);
        self.no_refusals();
    }

    /// The token that came is in force.
    pub(super) fn holds(&mut self, token: Token) {
        assert!(token.generation >= self.highest, "a generation fell");
        self.highest = token.generation;
        self.token = Some(token);
    }

    /// A fetch failed: the longest pause of its class is `pause`, if WeChat answered at all.
    pub(super) fn fails(&mut self, time: Time, definite: bool, pause: u64, day_quota: bool) {
        let now = time.now;
        let Some(fetch) = self.fetch.take() else {
            return;
        };
        let pause = if fetch.forced && day_quota {
            self.spent = (time.day(), FORCED_A_DAY);
            60 * SECOND
        } else {
            if definite && fetch.spends {
                self.spent.1 = self.spent.1.saturating_sub(1);
            }
            pause
        };
        if fetch.forced {
            self.forced = Some(now);
        }
        (self.failed, self.in_doubt, self.answered) = (Some((now, pause)), false, now);
        if !definite && self.kind.classic {
            self.minted = Some(now);
            if self.living(now).is_some() {
                self.opened(fetch.sent);
            }
        }
    }

    /// The oldest open outcome counts.
    fn opened(&mut self, sent: u64) {
        self.open = Some(self.open.map_or(sent, |since| since.min(sent)));
        (self.last, self.heard) = (sent, false);
    }

    pub(super) fn sees_it_alive(&mut self, now: u64) {
        self.replied();
        (self.dead, self.blurred) = (false, None);
        self.no_refusals();
        self.alive_at = Some(now);
        self.answered = now;
        if self.open.is_some_and(|since| now >= since + OVERLAP) {
            // Nothing was made so long ago, or it would be dead by now.
            if now >= self.last + OVERLAP {
                (self.open, self.minted) = (None, None);
            } else {
                self.open = Some(self.last);
            }
        }
    }

    /// A look was refused: whether it must count as dead now, and whether it may.
    pub(super) fn sees_it_refused(&mut self, now: u64) -> (bool, bool) {
        self.replied();
        self.refused += 1;
        self.refused_without_fetch += 1;
        let overdue = self.open.is_some_and(|since| now >= since + OVERLAP);
        let must = self.dead || self.refused_without_fetch >= 3;
        (must, must || self.refused >= 3 || overdue)
    }

    pub(super) fn sees_nothing(&mut self, now: u64, replied: bool, answered: bool) {
        self.in_doubt = false;
        self.heard |= replied;
        self.no_refusals();
        self.blurred = Some((now, answered));
    }

    fn no_refusals(&mut self) {
        (self.refused, self.refused_without_fetch) = (0, 0);
    }

    fn replied(&mut self) {
        (self.in_doubt, self.heard) = (false, true);
    }

    /// The server was killed and starts with what is on disk, which was written when `self` was known. No
    /// generation up to `highest` may be given to another token.
    pub(super) fn restarts(mut self, highest: u64, time: Time) -> Self {
        let now = time.now;
        self.highest = highest;
        (self.alive_at, self.blurred) = (None, None);
        self.no_refusals();
        (self.leaked, self.promised, self.answered) = (0, 0, now);
        self.before = Before::Unknown;
        if let Some(fetch) = self.fetch.take()
            && self.kind.classic
        {
            self.opened(fetch.sent);
        }
        self.heard = false;
        self.last = self.open.unwrap_or(0);
        if self.living(now).is_none() {
            (self.token, self.open, self.dead) = (None, None, false);
        }
        self.in_doubt = self.open.is_some_and(|since| now >= since + OVERLAP);
        self.first_look = self.in_doubt.then_some(now + FIRST_LOOK);
        let blocked = self.blocked.filter(|until| *until > now);
        self.failed = blocked.map(|until| (until, 0));
        self
    }

    /// A caller is told to keep the token until then; the next attempt is at `attempt`.
    pub(super) fn promises(&mut self, keep_until: u64, attempt: u64, now: u64) {
        let well = !self.is_wrong() && self.failed.is_none();
        if well && self.fetch.is_none() {
            self.promised = self.promised.max(keep_until);
        }
        let Some(token) = self.token else { return };
        assert!(keep_until <= token.expires, "kept beyond its death");
        if let Some(since) = self.open {
            assert!(keep_until <= since + OVERLAP, "kept beyond the overlap");
        } else if self.kind.classic && !self.dead {
            let last = attempt + OVERLAP - 10 * SECOND;
            assert!(keep_until <= last, "kept beyond the next attempt");
        }
        if well && self.kind.classic && self.fetch.is_none() {
            let until = self.planned(token).max(now) + OVERLAP - 10 * SECOND;
            assert!(
                keep_until <= token.expires.min(until + FLOOR),
                "kept too long"
            );
            assert!(
                keep_until >= token.expires.min(until - FLOOR),
                "kept too short"
            );
        }
    }

    /// When the next fetch is planned, if nothing happens before.
    fn planned(&self, token: Token) -> u64 {
        let life = token.expires - token.asked;
        if self.kind.classic {
            let last = self.minted.unwrap_or(token.asked);
            (token.asked + life / 2).max(last + OVERLAP.min(life / 2))
        } else {
            (token.expires - OVERLAP).max(self.answered + 30 * SECOND)
        }
    }

    /// When the next attempt has to be made, at the latest.
    pub(super) fn latest_attempt(&self, time: Time) -> u64 {
        let now = time.now;
        let pause = self.failed.map_or(0, |(at, pause)| at + pause);
        let soon = (now + FLOOR).max(self.first_look.unwrap_or(0));
        let Some(token) = self.living(now) else {
            return pause.max(soon);
        };
        if !self.is_wrong() {
            return pause.max(soon).max(self.planned(token));
        }
        let apart = if self.kind.classic {
            OVERLAP
        } else {
            FORCED_APART
        };
        let mints = [self.replaced, self.forced, self.minted, Some(self.answered)];
        let spaced = mints.into_iter().flatten().max().unwrap_or(0) + apart;
        let over = self.open.map_or(0, |_| self.last + OVERLAP);
        let midnight = if self.left(time) > 0 {
            0
        } else {
            now + time.until_midnight()
        };
        let allowed = spaced.max(over).max(midnight).min(token.expires);
        let planned = if self.kind.classic || self.dead {
            allowed
        } else {
            self.planned(token)
        };
        allowed.min(planned).max(pause).max(soon)
    }

    fn spent_today(&self, time: Time) -> u32 {
        let (day, spent) = self.spent;
        if day == time.day() { spent } else { 0 }
    }

    fn left(&self, time: Time) -> u32 {
        let most = if self.kind.classic {
            self.kind.daily
        } else {
            FORCED_A_DAY
        };
        most.saturating_sub(self.spent_today(time))
    }
}
