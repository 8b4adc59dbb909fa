//! Leases: how long a program that believes itself at WeChat may keep a token, and what it means when it
//! comes back too soon.
//!
//! An SDK takes what it is told for the life of the token and asks nobody before its end. So it is told
//! no more than what stays true whatever happens: a rotation as planned, and, but for its last minute,
//! one that is not. When WeChat refuses a token, an SDK cannot say so: it merely asks again. So whoever
//! asks again within a lease, or wants a refresh, is taken to have had a token refused.

use std::{collections::BTreeMap, time::Duration};

use super::{AppName, Generation, Moment};

/// The most of the overlap that is lent. A token that is replaced this moment dies at the overlap's end.
const OF_OVERLAP: f64 = 0.8;

/// Leases are shorter by up to this share, so that programs that came together do not come back
/// together.
const SPREAD: f64 = 0.1;

/// Between two looks at an app's token because somebody asked again. One that does not keep tokens at
/// all asks again all the time.
const PAUSE: Duration = Duration::from_secs(30);

/// SDKs count in whole seconds, some of them from the start of the second, so who comes back that much too
/// soon comes back in time.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Who asks again so soon may be another process of the same program, which starts at the same time …
const HASTE: Duration = Duration::from_secs(1);

/// … unless it happens so often: then it is one that is lost in a loop.
const CROWD: u32 = 20;

/// For how many seconds a token is lent, at least one, that may be kept for `keep_for`. `dice` is out
/// of [0, 1).
pub fn lease(keep_for: Duration, overlap: Duration, dice: f64) -> u64 {
    let most = keep_for.min(overlap.mul_f64(OF_OVERLAP));
    most.mul_f64(1.0 - SPREAD * dice).as_secs().max(1)
}

/// What has been lent to whom.
#[derive(Debug, Default)]
pub struct Leases {
    lent: BTreeMap<(String, AppName), Lent>,
    looked: BTreeMap<AppName, Moment>,
}

#[derive(Debug)]
struct Lent {
    generation: Generation,
    at: Moment,
    until: Moment,
    /// How often it was asked for before its end.
    again: u32,
}

impl Lent {
    fn is_hasty(&self, now: Moment) -> bool {
        now.since(self.at) < HASTE
    }
}

/// Whether somebody who asks for a token has had the current one refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// Not as far as anybody can tell.
    No,
    /// Not enough to look at the token. If somebody does so already, it had better wait for that.
    Perhaps,
    /// Somebody should look.
    Likely,
}

impl Leases {
    /// `holder` got a token of `app` at `now`, for a lease of so many seconds.
    pub fn lend(
        &mut self,
        holder: &str,
        app: &AppName,
        generation: Generation,
        now: Moment,
        lease: u64,
    ) {
        let key = (holder.to_owned(), app.clone());
        let before = self.lent.get(&key);
        let same = before.filter(|lent| lent.generation == generation && now < lent.until);
        let lent = Lent {
            generation,
            // Haste counts from its beginning, or a loop without a pause would never end.
            at: same.map_or(now, |lent| if lent.is_hasty(now) { lent.at } else { now }),
            until: now + Duration::from_secs(lease),
            again: same.map_or(0, |lent| lent.again),
        };
        self.lent.insert(key, lent);
    }

    /// What it means that `holder` asks for a token of `app` at `now`, while `current` is in force;
    /// `forced` if it says that it wants a new one.
    pub fn complaint(
        &mut self,
        holder: &str,
        app: &AppName,
        current: Generation,
        forced: bool,
        now: Moment,
    ) -> Complaint {
        let lent = self.lent.get_mut(&(holder.to_owned(), app.clone()));
        match lent {
            // Whatever it had refused, it was not this one.
            Some(lent) if lent.generation < current => Complaint::No,
            _ if forced => Complaint::Likely,
            Some(lent) if now + TOLERANCE < lent.until => {
                lent.again = lent.again.saturating_add(1);
                if lent.is_hasty(now) && lent.again < CROWD {
                    Complaint::Perhaps
                } else {
                    Complaint::Likely
                }
            }
            _ => Complaint::No,
        }
    }

    /// Whether the token of `app` may be looked at because of a complaint, which counts if it may.
    pub fn may_look(&mut self, app: &AppName, forced: bool, now: Moment) -> bool {
        let looked = self.looked.get(app);
        let may = forced || looked.is_none_or(|&looked| looked + PAUSE <= now);
        if may {
            self.looked.insert(app.clone(), now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERLAP: Duration = Duration::from_mins(5);

    fn at(second: u64) -> Moment {
        Moment::since_boot(Duration::from_secs(second))
    }

    fn app(name: &str) -> AppName {
        AppName::parse(name).unwrap()
    }

    #[test]
    fn a_lease_ends_before_all_that_may_end_the_token() {
        // (keep_for, overlap, dice, lease), in seconds
        let table = [
            (7200.0, 300.0, 0.0, 240),
            (7200.0, 300.0, 0.5, 228),
            (7200.0, 300.0, 0.999_999, 216),
            (200.0, 300.0, 0.0, 200),
            (200.9, 300.0, 0.0, 200),
            (7200.0, 3.0, 0.0, 2),
            (0.5, 300.0, 0.0, 1),
            (0.0, 300.0, 0.0, 1),
        ];
        for (keep_for, overlap, dice, expected) in table {
            let [keep_for, overlap] = [keep_for, overlap].map(Duration::from_secs_f64);
            let lease = lease(keep_for, overlap, dice);
            assert_eq!(lease, expected, "{keep_for:?} {overlap:?} {dice}");
        }
        assert_eq!(lease(Duration::MAX, OVERLAP, 0.0), 240);
    }

    #[test]
    fn who_comes_back_within_the_lease_has_had_the_token_refused() {
        use Complaint::{Likely, No};
        // (lent to `a` at 100 s: generation and lease, asks at, forced, complains of generation 5)
        let table = [
            (None, 150, false, No),
            (None, 150, true, Likely),
            (Some((5, 100)), 198, false, Likely),
            (Some((5, 100)), 199, false, No),
            (Some((5, 100)), 200, true, Likely),
            (Some((4, 100)), 150, false, No),
            (Some((4, 100)), 150, true, No),
            // A sidecar may have heard of it from a server that is ahead of the one it has now.
            (Some((6, 100)), 150, false, Likely),
        ];
        for (case, (lent, now, forced, expected)) in table.into_iter().enumerate() {
            let mut leases = Leases::default();
            if let Some((generation, lease)) = lent {
                leases.lend("a", &app("shop"), Generation(generation), at(100), lease);
            }
            let mut complaint =
                |holder, name| leases.complaint(holder, &app(name), Generation(5), forced, at(now));
            let stranger = if forced { Likely } else { No };
            assert_eq!(complaint("b", "shop"), stranger, "case {case}: another");
            assert_eq!(complaint("a", "other"), stranger, "case {case}: elsewhere");
            assert_eq!(complaint("a", "shop"), expected, "case {case}");
        }
    }

    #[test]
    fn processes_that_start_together_complain_of_nothing_and_a_loop_does() {
        let mut leases = Leases::default();
        let mut asks = |millis| {
            let (shop, now) = (app("shop"), at(100) + Duration::from_millis(millis));
            let complaint = leases.complaint("a", &shop, Generation(1), false, now);
            leases.lend("a", &shop, Generation(1), now, 240);
            complaint
        };
        assert_eq!(asks(0), Complaint::No);
        for n in 1..20 {
            assert_eq!(asks(n * 40), Complaint::Perhaps, "{n}");
        }
        assert_eq!(asks(800), Complaint::Likely, "so many");
        assert_eq!(asks(900), Complaint::Likely, "and so on");
    }

    #[test]
    fn a_loop_is_believed_after_a_second_whatever_its_pace() {
        let mut leases = Leases::default();
        let complaints = (0..15).map(|n| {
            let (shop, now) = (app("shop"), at(100) + Duration::from_millis(n * 300));
            let complaint = leases.complaint("a", &shop, Generation(1), false, now);
            leases.lend("a", &shop, Generation(1), now, 240);
            complaint
        });
        let likely = complaints
            .enumerate()
            .filter(|(_, c)| *c == Complaint::Likely);
        let likely: Vec<_> = likely.map(|(n, _)| n * 300).collect();
        assert_eq!(likely, [1200, 2400, 3600]);
    }

    #[test]
    fn who_merely_asks_again_makes_one_look_in_thirty_seconds_for_each_app() {
        let mut leases = Leases::default();
        let looks = (100..160).filter(|&now| leases.may_look(&app("shop"), false, at(now)));
        assert_eq!(looks.collect::<Vec<_>>(), [100, 130]);
        assert!(leases.may_look(&app("other"), false, at(131)));
        assert!(leases.may_look(&app("shop"), true, at(140)), "it says so");
        assert!(!leases.may_look(&app("shop"), false, at(169)));
        assert!(leases.may_look(&app("shop"), false, at(170)));
    }
}
