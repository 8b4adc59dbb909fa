//! The simulated WeChat: its state, and everything that happens to it but calls.
//!
//! Pure: no clock, no socket, no globals. The model is told the time with every call, and the same
//! seed and the same calls give the same replies, so that a failure can be run again.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;

use super::{
    Account, Asker, Call, Counts, Endpoint, Errcode, Fault, Knobs, Outage, Pool, Settings,
    gate::Change, pool::World, replies,
};

/// A simulated WeChat.
#[derive(Debug)]
pub struct Model {
    start: Settings,
    pub(super) settings: Settings,
    pub(super) accounts: BTreeMap<String, Account>,
    pub(super) faults: Vec<Fault>,
    outage: (Outage, Option<Duration>),
    pub(super) later: Vec<(Duration, Later)>,
    /// Calls that belong to no account.
    pub(super) strangers: Counts,
    pub(super) dice: Rng,
    pub(super) now: Duration,
}

/// What takes effect some time after it was said.
#[derive(Debug)]
pub(super) enum Later {
    Change(Vec<String>, Box<Change>),
    Call(Endpoint, Call),
}

impl Model {
    /// A WeChat without tokens.
    ///
    /// # Panics
    ///
    /// The settings make no sense: ask [`Settings::check`] first if they are a user's.
    pub fn new(settings: Settings, seed: u64) -> Self {
        settings
            .check()
            .expect("the caller checks what a user wrote");
        let account = |it| Account::new(it, &settings);
        let accounts = settings.accounts.iter();
        Self {
            accounts: accounts.map(|it| (it.appid.clone(), account(it))).collect(),
            start: settings.clone(),
            settings,
            faults: Vec::new(),
            outage: (Outage::None, None),
            later: Vec::new(),
            strangers: Counts::default(),
            dice: Rng::with_seed(seed),
            now: Duration::ZERO,
        }
    }

    /// Lets time pass: late changes and late calls take effect.
    pub fn advance(&mut self, at: Duration) {
        self.now = self.now.max(at);
        let until = self.now;
        loop {
            let due = self
                .later
                .iter()
                .enumerate()
                .filter(|(_, (due, _))| *due <= until);
            let Some((first, _)) = due.min_by_key(|(_, (due, _))| *due) else {
                return;
            };
            let (due, later) = self.later.remove(first);
            match later {
                Later::Change(appids, change) => self.change(&appids, &change, due),
                Later::Call(endpoint, call) => drop(self.carry_out_unseen(due, endpoint, &call)),
            }
        }
    }

    /// Turns knobs.
    ///
    /// # Errors
    ///
    /// A sentence about what makes no sense; nothing was changed then.
    pub fn turn(&mut self, at: Duration, knobs: &Knobs) -> Result<(), String> {
        self.advance(at);
        let (settings, change) = (knobs.turned(&self.settings)?, knobs.change()?);
        let appids = match &knobs.appid {
            Some(appid) if !self.accounts.contains_key(appid) => {
                return Err(format!("there is no account `{appid}`"));
            }
            Some(appid) => vec![appid.clone()],
            None => self.accounts.keys().cloned().collect(),
        };
        self.settings = settings;
        if let Some(outage) = knobs.outage {
            self.outage = (outage, knobs.outage_for.map(|span| self.now + span));
        }
        if knobs.clear_faults {
            self.faults.clear();
        }
        self.faults.extend(knobs.faults.iter().cloned());
        match knobs.change_delay {
            None => self.change(&appids, &change, self.now),
            Some(delay) => {
                let later = Later::Change(appids, Box::new(change));
                self.later.push((self.now + delay, later));
            }
        }
        Ok(())
    }

    /// Somebody else fetches a token of this account; in the stable pool by force.
    ///
    /// # Errors
    ///
    /// WeChat's refusal: they have the same quotas as everybody.
    pub fn foreign_fetch(&mut self, at: Duration, appid: &str, pool: Pool) -> Result<(), Errcode> {
        self.advance(at);
        let (account, mut world) = self.account_at(self.now, appid).ok_or(replies::BAD_APPID)?;
        match pool {
            Pool::Classic => account.fetch_classic(&mut world, Asker::Foreign).map(drop),
            Pool::Stable => account.force(&mut world, Asker::Foreign).map(drop),
        }
    }

    /// Kills the current token of a pool. Returns whether there was a living one.
    pub fn revoke(&mut self, at: Duration, appid: &str, pool: Pool) -> bool {
        self.advance(at);
        self.account_at(self.now, appid)
            .is_some_and(|(account, mut world)| account.ring_mut(pool).revoke(&mut world))
    }

    /// Starts again with the settings of the start, without tokens, faults or counts.
    pub fn reset(&mut self) {
        *self = Self {
            now: self.now,
            ..Self::new(self.start.clone(), self.dice.u64(..))
        };
    }

    /// Whether `token` of this account lives, in truth, whatever back ends believe. Counts nothing.
    ///
    /// # Errors
    ///
    /// What WeChat calls it: 42001 expired, 40001 superseded, revoked or never known.
    pub fn judge(&mut self, at: Duration, appid: &str, token: &str) -> Result<(), Errcode> {
        self.advance(at);
        let account = self.accounts.get(appid).ok_or(replies::NOT_LATEST)?;
        account.judge(at, token, None)
    }

    /// How many of the back ends would accept `token` of this account. Counts nothing.
    pub fn believers(&mut self, at: Duration, appid: &str, token: &str) -> usize {
        self.advance(at);
        let accepts =
            |account: &Account, back_end| account.judge(at, token, Some(back_end)).is_ok();
        self.accounts.get(appid).map_or(0, |account| {
            let back_ends = 0..self.settings.back_ends;
            back_ends
                .filter(|&back_end| accepts(account, back_end))
                .count()
        })
    }

    /// An account's counts and tokens, as of the last call; [`Model::advance`] brings them up to date.
    pub fn account(&self, appid: &str) -> Option<&Account> {
        self.accounts.get(appid)
    }

    /// The counts of all accounts together, and of calls that belong to none, as of the last call.
    pub fn counts(&self) -> Counts {
        let mut sum = self.strangers;
        self.accounts
            .values()
            .for_each(|account| sum += account.counts);
        sum
    }

    /// The outage there is.
    pub fn outage(&self, at: Duration) -> Outage {
        match self.outage {
            (_, Some(end)) if end <= at.max(self.now) => Outage::None,
            (outage, _) => outage,
        }
    }

    pub(super) fn account_at(
        &mut self,
        at: Duration,
        appid: &str,
    ) -> Option<(&mut Account, World<'_>)> {
        let (settings, dice) = (&self.settings, &mut self.dice);
        let account = self.accounts.get_mut(appid)?;
        Some((account, World { at, settings, dice }))
    }

    fn change(&mut self, appids: &[String], change: &Change, at: Duration) {
        for appid in appids {
            if let Some(account) = self.accounts.get_mut(appid) {
                account.gate.apply(change, at);
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::sandbox::given::*;
    use crate::sandbox::{Credentials, Delivery, Kind};

    const DAY: u64 = 86_400;

    #[test]
    fn accounts_do_not_know_each_others_tokens() {
        let other = Credentials {
            appid: "wxother".into(),
            secret: "s".into(),
        };
        let accounts = vec![Credentials::default(), other.clone()];
        let mut model = Model::new(
            Settings {
                accounts,
                ..Settings::default()
            },
            1,
        );
        let ours = fetch(&mut model, 0, &classic());
        let theirs = fetch(&mut model, 0, &Call::classic(&other));
        assert_eq!(model.judge(at(1), &appid(), &ours), Ok(()));
        assert_eq!(model.judge(at(1), &appid(), &theirs), Err(40001));
        assert_eq!(model.judge(at(1), &other.appid, &theirs), Ok(()));
    }

    #[test]
    fn a_late_call_demotes_the_token_of_whoever_asked_again() {
        let after = Duration::from_mins(1);
        let mut model = faulty(Fault {
            after,
            ..Fault::new(Kind::Late).times(1)
        });
        assert_eq!(model.handle(START, &classic()).delivery, Delivery::Hang);
        let ours = fetch(&mut model, 10, &classic());
        assert_eq!(model.judge(at(59), &appid(), &ours), Ok(()));
        assert_ne!(
            {
                model.advance(at(60));
                newest(&model, Pool::Classic)
            },
            ours
        );
        assert_eq!(model.judge(at(359), &appid(), &ours), Ok(()));
        assert_eq!(model.judge(at(360), &appid(), &ours), Err(40001));
    }

    #[test]
    fn a_foreign_fetch_demotes_our_token_and_costs_our_quota() {
        for pool in [Pool::Classic, Pool::Stable] {
            let mut model = model();
            let forced = Call::stable(&Credentials::default(), true);
            let call = if pool == Pool::Classic {
                classic()
            } else {
                forced
            };
            let ours = fetch(&mut model, 0, &call);
            assert_eq!(model.foreign_fetch(at(100), &appid(), pool), Ok(()));
            assert_eq!(model.judge(at(399), &appid(), &ours), Ok(()));
            assert_eq!(model.judge(at(400), &appid(), &ours), Err(40001));
        }
        let mut model = model();
        let results: Vec<_> = (0..=20)
            .map(|turn| model.foreign_fetch(at(1000 + turn * 30), &appid(), Pool::Stable))
            .collect();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 20);
        assert_eq!(results[20], Err(45009));
    }

    #[test]
    fn a_revoked_token_is_refused_at_once() {
        let mut model = model();
        let ours = fetch(&mut model, 0, &classic());
        assert!(model.revoke(at(10), &appid(), Pool::Classic));
        assert!(!model.revoke(at(10), &appid(), Pool::Classic));
        assert_eq!(
            errcode(&model.handle(at(10), &Call::look(&ours))),
            Some(40001)
        );
    }

    #[test]
    fn an_outage_strikes_everything_until_it_ends() {
        for (outage, delivery) in [
            (Outage::Refuse, Delivery::Refused),
            (Outage::Cut, Delivery::Lost),
            (Outage::Hang, Delivery::Hang),
            (Outage::Gateway, Delivery::Whole),
        ] {
            let mut model = model();
            let outage_for = Some(Duration::from_mins(1));
            let knobs = Knobs {
                outage: Some(outage),
                outage_for,
                ..Knobs::default()
            };
            model.turn(START, &knobs).unwrap();
            for call in [classic(), Call::look("x"), Call::get("/nowhere", &[])] {
                assert_eq!(model.handle(at(59), &call).delivery, delivery);
            }
            assert_eq!(model.counts().mints(), 0);
            fetch(&mut model, 60, &classic());
        }
    }

    #[test]
    fn clearing_faults_keeps_those_of_the_same_request() {
        let mut model = faulty(Fault::errcode(45009));
        let knobs = Knobs {
            clear_faults: true,
            faults: vec![Fault::errcode(50004).times(1)],
            ..Knobs::default()
        };
        model.turn(START, &knobs).unwrap();
        let got = [0, 1].map(|second| errcode(&model.handle(at(second), &classic())));
        assert_eq!(got, [Some(50004), None]);
    }

    #[test]
    fn a_change_can_take_its_time() {
        let mut model = model();
        let knobs = Knobs {
            secret: Some("new".into()),
            change_delay: Some(Duration::from_mins(10)),
            ..Knobs::default()
        };
        model.turn(START, &knobs).unwrap();
        let (old, new) = (classic(), {
            let secret = "new".into();
            Call::classic(&Credentials {
                secret,
                ..Credentials::default()
            })
        });
        let mut told = |second, call| errcode(&model.handle(at(second), call));
        assert_eq!((told(599, &old), told(599, &new)), (None, Some(40125)));
        assert_eq!((told(600, &old), told(600, &new)), (Some(40125), None));
    }

    #[test]
    fn a_knob_of_one_account_leaves_the_others_alone() {
        let mut model = model();
        let knobs = |appid: &str| Knobs {
            appid: Some(appid.into()),
            secret_frozen: Some(true),
            life: Some(Duration::from_secs(6)),
            ..Knobs::default()
        };
        assert!(
            model
                .turn(START, &knobs("wxother"))
                .unwrap_err()
                .contains("wxother")
        );
        let reply = model.handle(START, &classic());
        assert_eq!(json(&reply)["expires_in"], 7200, "nothing was changed");
        model.turn(START, &knobs(&appid())).unwrap();
        assert_eq!(errcode(&model.handle(START, &classic())), Some(40243));
    }

    #[test]
    fn back_ends_disagree_for_a_while_and_the_truth_does_not() {
        let lag = Duration::from_mins(1);
        let mut model = Model::new(
            Settings {
                back_ends: 4,
                lag,
                ..Settings::default()
            },
            3,
        );
        let token = fetch(&mut model, 0, &classic());
        assert_eq!(model.judge(START, &appid(), &token), Ok(()));
        assert_eq!(model.believers(START, &appid(), &token), 0);
        let believers = model.believers(at(30), &appid(), &token);
        assert!((1..4).contains(&believers), "{believers}");
        let mut accepted = || errcode(&model.handle(at(30), &Call::look(&token))).is_none();
        let accepted = (0..200).filter(|_| accepted()).count();
        assert!((20..180).contains(&accepted), "{accepted}");
        assert_eq!(model.believers(at(60), &appid(), &token), 4);
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_seed_another() {
        let run = |seed| {
            let lag = Duration::from_mins(5);
            let settings = Settings {
                back_ends: 3,
                lag,
                busy_rate: 0.1,
                ..Settings::default()
            };
            let mut model = Model::new(settings, seed);
            let mut replies = Vec::new();
            for second in (0..7 * DAY).step_by(3000) {
                replies.push(model.handle(at(second), &classic()).body);
                let token = newest(&model, Pool::Classic);
                replies.push(model.handle(at(second + 60), &Call::look(&token)).body);
            }
            replies
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn time_does_not_run_backwards() {
        let mut model = model();
        let token = fetch(&mut model, 100, &classic());
        assert_eq!(errcode(&model.handle(START, &Call::look(&token))), None);
        fetch(&mut model, 0, &classic());
        assert_eq!(model.judge(at(399), &appid(), &token), Ok(()));
    }

    #[test]
    fn a_reset_forgets_everything_that_happened() {
        let mut model = faulty(Fault::new(Kind::Lost));
        let knobs = Knobs {
            life: Some(Duration::from_secs(6)),
            outage: Some(Outage::Cut),
            ..Knobs::default()
        };
        model.turn(START, &knobs).unwrap();
        model.handle(START, &classic());
        model.reset();
        assert_eq!(model.counts(), Counts::default());
        assert_eq!(json(&model.handle(START, &classic()))["expires_in"], 7200);
    }
}
