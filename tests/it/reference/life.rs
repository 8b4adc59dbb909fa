//! One life: a slot, a clock that moves only when told to, and what is known of both.

use std::time::{Duration, SystemTime};

use wxtokend::domain::{
    Ask, Fetched, Generation, Mode, Moment, Now, Policy, Record, Remedy, Secret, Sight, Slot,
    Trouble, blames_the_token,
    report::{Stale, StaleReport},
    slot::{Start, Verdict},
};

use super::{
    events::{Answer, Event, Kind, Of, Report},
    known::{Known, LIFE, Noted, SECOND, TIMEOUT, Time, Token},
};

/// Where the wall clock begins: some morning in 2026.
const MORNING: i64 = 1_795_300_000_000;

pub(super) struct Life {
    slot: Slot,
    policy: Policy,
    time: Time,
    known: Known,
    /// The record on disk, and what was known when it was written.
    disk: Option<(Record, Known)>,
    /// The same before the last save, if that came after readers saw what was saved.
    unsaved: Option<(Record, Known)>,
    /// The highest generation that readers have seen.
    seen: u64,
    sent: Time,
    look: Option<(Generation, u64)>,
    reports: Vec<Pending>,
    values: u32,
}

/// A report without an answer.
struct Pending {
    report: StaleReport,
    of: Meant,
    since: u64,
}

#[derive(Clone, Copy)]
pub(super) enum Meant {
    Generation(u64),
    Value(u32),
}

impl Meant {
    pub(super) fn is(self, token: Token) -> bool {
        match self {
            Self::Generation(generation) => {
                generation == token.generation || generation == token.first
            }
            Self::Value(value) => value == token.value,
        }
    }
}

fn value(number: u32) -> Secret {
    Secret::new(format!("value {number}"))
}

fn millis(moment: Moment) -> u64 {
    u64::try_from(moment.as_millis()).unwrap()
}

impl Life {
    pub(super) fn new(kind: Kind) -> Self {
        let policy = Policy {
            mode: if kind.classic {
                Mode::Classic
            } else {
                Mode::Stable
            },
            probe_every: Duration::from_secs(if kind.looks { 60 } else { 0 }),
            daily_replacements: kind.daily,
            ..Policy::default()
        };
        let time = Time {
            now: 1_000_000 * SECOND,
            wall: MORNING,
        };
        let mut life = Self {
            slot: Slot::new(policy, moments(time)),
            policy,
            time,
            known: Known::nothing(kind),
            disk: None,
            unsaved: None,
            seen: 0,
            sent: time,
            look: None,
            reports: Vec::new(),
            values: 0,
        };
        life.begin_what_is_due();
        life
    }

    pub(super) fn happens(&mut self, event: Event) {
        match event {
            Event::Wait(seconds) => self.pass(self.time.now + seconds * SECOND),
            Event::Due => self.pass_until_due(),
            Event::Answer(answer) => {
                if self.known.fetch.is_none() {
                    self.pass_until_due();
                }
                self.comes_back(answer);
            }
            Event::See(sight) => self.sees(sight),
            Event::Report(report) => self.reported(report),
            Event::Restart => self.restart(),
            Event::RestartUnsaved => {
                self.disk = self.unsaved.take().or(self.disk.take());
                self.restart();
            }
            Event::SetClock(hours) => {
                self.time.wall += hours * 3_600_000;
                self.slot.clock_was_set(self.now());
            }
            Event::Nudge => {
                self.slot.nudged(self.now());
                self.known.blocked = None;
            }
        }
        self.go_on();
    }

    fn now(&self) -> Now {
        moments(self.time)
    }

    /// The next moment at which something happens by itself.
    fn next(&self) -> u64 {
        let due = self.slot.due(self.now()).map(|due| {
            let floor = millis(due);
            let whole = Moment::from_millis(due.as_millis()) == due;
            if whole { floor } else { floor + 1 }
        });
        let fetch = self.known.fetch.map(|fetch| fetch.sent + TIMEOUT);
        let look = self.look.map(|(_, sent)| sent + TIMEOUT);
        let next = [due, fetch, look].into_iter().flatten().min();
        next.expect("there is always a next attempt")
            .max(self.time.now)
    }

    fn pass_until_due(&mut self) {
        self.pass(self.next());
    }

    fn pass(&mut self, end: u64) {
        loop {
            let next = self.next().min(end);
            self.time.wall += i64::try_from(next - self.time.now).unwrap();
            self.time.now = next;
            if self.known.fetch.is_some_and(|f| f.sent + TIMEOUT <= next) {
                self.comes_back(Answer::Lost);
            }
            if self.look.is_some_and(|(_, sent)| sent + TIMEOUT <= next) {
                self.sees(Sight::Unreachable);
            }
            self.go_on();
            if next == end {
                return;
            }
        }
    }

    /// After everything that happens: judge, begin what is due, and compare.
    fn go_on(&mut self) {
        self.judge_all();
        self.begin_what_is_due();
        self.judge_all();
        self.begin_what_is_due();
        self.compare();
    }

    fn begin_what_is_due(&mut self) {
        while let Some(start) = self.slot.woke(self.now()) {
            let errand = match start {
                Start::Look(token) => {
                    assert!(self.look.is_none(), "two looks at a time");
                    let living = self.known.living(self.time.now).expect("a look at nothing");
                    assert_eq!(token.generation.0, living.generation);
                    self.look = Some((token.generation, self.time.now));
                    continue;
                }
                Start::Ask(errand) => errand,
            };
            let note = errand.note.as_ref().map(|record| Noted {
                reserved: record.note.expect("it is the note").reserved.0,
                day: i64::try_from(record.ledger.day).unwrap(),
                spent: record.ledger.replacements.max(record.ledger.forced),
            });
            self.known.asks(self.time, errand.ask == Ask::Forced, note);
            if !self.slot.looking() {
                self.look = None;
            }
            if let Some(record) = errand.note {
                self.disk = Some((record, self.known.clone()));
                self.unsaved = None;
            }
            self.sent = self.time;
        }
    }

    fn save(&mut self) {
        self.disk = Some((self.slot.record(), self.known.clone()));
        self.unsaved = None;
    }

    fn comes_back(&mut self, answer: Answer) {
        let Some(fetch) = self.known.fetch else {
            return;
        };
        let living = self.known.living(self.time.now);
        let noted = self.disk.clone().filter(|_| fetch.reserved.is_some());
        match (answer, living) {
            (Answer::Lost, _) => self.fails(Remedy::BackOff, false),
            (Answer::No(remedy), _) => self.fails(remedy, true),
            (Answer::Same, Some(token)) if !self.policy_is_classic() => {
                let left = token.expires - self.sent.now;
                self.arrives(token.value, left);
            }
            (Answer::Same | Answer::New, _) => {
                self.values += 1;
                self.arrives(self.values, LIFE);
            }
        }
        if fetch.reserved.is_some() {
            self.save();
            self.unsaved = noted;
        }
        if !self.slot.looking() {
            self.look = None;
        }
    }

    fn policy_is_classic(&self) -> bool {
        self.policy.mode == Mode::Classic
    }

    fn arrives(&mut self, number: u32, left: u64) {
        let before = self.known.clone();
        let got = Fetched {
            value: value(number),
            time_to_live: Duration::from_millis(left),
        };
        let rotation = self.slot.fetched(got, moments(self.sent), self.now());
        let fetch = before.fetch.expect("it was asked for");
        let blocked = before.blocked.is_some();
        assert_eq!(self.known.arrives(self.time, number), rotation.is_some());
        let Some(rotation) = rotation else {
            if blocked {
                self.save();
            }
            return;
        };
        let generation = rotation.token.generation.0;
        assert!(generation > before.highest || Some(generation) == fetch.reserved);
        assert_eq!(fetch.reserved.unwrap_or(generation), generation);
        if rotation.foreign {
            let early = before.living(self.time.now + 305 * SECOND).is_some();
            let unforced = !self.policy_is_classic() && !fetch.forced;
            let dead = before.dead && before.open.is_none();
            assert!(dead || (early && unforced), "whose doing was it?");
        }
        self.known.holds(Token {
            value: number,
            generation,
            first: generation,
            asked: self.sent.now,
            arrived: self.time.now,
            expires: self.sent.now + left,
        });
        self.save();
    }

    fn fails(&mut self, remedy: Remedy, definite: bool) {
        let trouble = Trouble {
            remedy,
            errcode: None,
            definite,
            message: "of a test".into(),
            hint: None,
        };
        self.slot
            .failed(trouble, moments(self.sent), self.now(), 0.3);
        let (pause, quota) = (longest_pause(remedy), remedy == Remedy::DayQuota);
        self.known.fails(self.time, definite, pause, quota);
        if let Remedy::RiskRejected(_) = remedy {
            self.known.blocked = Some(self.time.now + pause);
            self.save();
        }
    }

    fn sees(&mut self, sight: Sight) {
        let Some((generation, _)) = self.look.take() else {
            return;
        };
        self.slot.looked(generation, sight, self.now(), 0.3);
        let now = self.time.now;
        let was = self.known.dead;
        match sight {
            Sight::Alive => self.known.sees_it_alive(now),
            Sight::Refused => {
                let (must, may) = self.known.sees_it_refused(now);
                assert!(!must || self.slot.dead(), "three looks prove a death");
                assert!(may || !self.slot.dead(), "nothing proves it dead");
                self.known.dead = self.slot.dead();
            }
            Sight::NoVerdict { .. } => self.known.sees_nothing(now, true, true),
            Sight::Busy => self.known.sees_nothing(now, true, false),
            Sight::Unreachable => self.known.sees_nothing(now, false, false),
        }
        if was != self.known.dead && self.known.fetch.is_none() {
            self.save();
        }
    }

    fn reported(&mut self, report: Report) {
        let Some(token) = self.known.token else {
            return;
        };
        let (of, stale) = match report.of {
            Of::CurrentByValue => (Meant::Value(token.value), Stale::Value(value(token.value))),
            of => {
                let number = match of {
                    Of::Older => token.generation - 1,
                    Of::Newer => token.generation + 1,
                    Of::Current | Of::CurrentByValue => token.generation,
                };
                let stale = Stale::Generation(Generation(number));
                (Meant::Generation(number), stale)
            }
        };
        let Report {
            errcode, leaked, ..
        } = report;
        let report = StaleReport {
            stale,
            errcode,
            leaked,
        };
        let since = self.time.now;
        self.reports.push(Pending { report, of, since });
    }

    fn judge_all(&mut self) {
        for pending in std::mem::take(&mut self.reports) {
            let since = Moment::from_millis(i64::try_from(pending.since).unwrap());
            let verdict = self.slot.reported(&pending.report, since, self.now());
            self.check(&pending, verdict);
            if verdict == Verdict::Wait {
                self.reports.push(pending);
            }
        }
    }

    /// Whether `verdict` is true.
    fn check(&mut self, pending: &Pending, verdict: Verdict) {
        let now = self.time.now;
        let known = &mut self.known;
        let Pending { report, of, since } = pending;
        let Some(token) = known.living(now).filter(|_| !known.in_doubt) else {
            assert!(
                matches!(verdict, Verdict::Wait | Verdict::NoToken),
                "{verdict:?}"
            );
            return;
        };
        let curable = report.errcode == 0 || blames_the_token(report.errcode);
        let outlives = report.leaked && known.outlives(*of, now);
        let killing = report.leaked && (known.leaked > 0 || outlives);
        let expected = match verdict {
            _ if !of.is(token) && killing => match verdict {
                Verdict::NoToken => known.failed.is_some(),
                Verdict::TooOften { .. } => true,
                verdict => verdict == Verdict::Wait,
            },
            _ if !of.is(token) && token.arrived <= *since => verdict == Verdict::AlreadyNewer,
            _ if !of.is(token) => verdict == Verdict::Refreshed,
            Verdict::AlreadyNewer | Verdict::Refreshed => false,
            _ if !curable => verdict == Verdict::NotATokenError,
            Verdict::NotATokenError => false,
            Verdict::StillValid => {
                let recent = known.alive_at.is_some_and(|at| at + 10 * SECOND > now);
                recent && !known.dead && !report.leaked
            }
            Verdict::NoToken => {
                let waits = known.first_look.is_some_and(|until| now < until);
                (known.dead || report.leaked) && (known.failed.is_some() || waits)
            }
            Verdict::Inconclusive { retry_after, .. } => {
                let recent = known.blurred.is_some_and(|(at, _)| at + 5 * SECOND > now);
                recent && !known.dead && retry_after <= Duration::from_secs(5)
            }
            Verdict::TooOften { retry_after, .. } => {
                let unsure = known.blurred.is_some_and(|(_, answered)| answered);
                let reason = known.dead || report.leaked || unsure;
                reason && !retry_after.is_zero()
            }
            Verdict::Wait => true,
        };
        assert!(expected, "{verdict:?} for {report:?}");
        let begun = matches!(verdict, Verdict::Wait | Verdict::NoToken) && !known.dead;
        if report.leaked && of.is(token) && begun && known.leaked == 0 {
            known.leaked = 2;
        } else if outlives && begun && known.leaked == 0 {
            // The mint that replaced it was the first one.
            known.leaked = 1;
        }
    }

    fn restart(&mut self) {
        self.slot = Slot::new(self.policy, self.now());
        (self.look, self.reports, self.unsaved) = (None, Vec::new(), None);
        let (highest, before) = (self.known.highest, self.known.token);
        let Some((record, known)) = self.disk.clone() else {
            let nothing = Known::nothing(self.known.kind);
            self.known = nothing.restarts(highest, self.time);
            return;
        };
        self.slot.restored(record, self.now());
        self.known = known.restarts(highest, self.time);
        // The token that the note is about may have been seen: the old one comes after it.
        let Some(token) = self.known.token else {
            return;
        };
        let again = self.slot.record().token.expect("the token is on disk");
        assert!(again.value == value(token.value), "another token");
        let token = Token {
            first: token.generation,
            ..token
        };
        self.known.token = Some(token);
        if again.generation.0 != token.generation {
            let same = |t: Token| (t.value, t.generation) == (token.value, again.generation.0);
            let free = again.generation.0 > highest || before.is_some_and(same);
            assert!(free, "its generation was taken");
            self.known.holds(Token {
                generation: again.generation.0,
                ..token
            });
        }
    }

    /// What readers see is what is known.
    fn compare(&mut self) {
        let (now, time) = (self.time.now, self.time);
        let shown = self.slot.token().cloned();
        if let Some(shown) = &shown {
            let token = self.known.token.expect("a token out of nowhere");
            assert!(shown.value == value(token.value), "another token");
            assert!(token.generation >= self.seen, "a generation fell");
            self.seen = token.generation;
            assert_eq!(shown.generation.0, token.generation, "generation");
            assert_eq!(millis(shown.expires_at), token.expires, "the expiry moved");
            let keep = self
                .slot
                .keep_until(self.now())
                .expect("a token can be kept");
            let attempt = match self.known.fetch {
                Some(_) => now,
                None => millis(self.slot.retry_at(self.now())) + 1,
            };
            self.known.promises(millis(keep), attempt, now);
            let most = self.slot.keep_at_most();
            assert_eq!(most.is_some(), self.known.open.is_some(), "suspect");
        } else {
            let none = self.known.living(now).is_none() || self.known.in_doubt;
            assert!(none, "a living token is not shown");
        }
        assert_eq!(self.slot.dead(), self.known.dead, "dead");
        if self.known.fetch.is_none() {
            let retry = millis(self.slot.retry_at(self.now()));
            let latest = self.known.latest_attempt(time);
            assert!(
                retry <= latest,
                "the next attempt is {} ms late",
                retry - latest
            );
        }
        for pending in &self.reports {
            let begun = self.known.fetch.is_some() || self.look.is_some();
            let soon = self.next() <= now + 30 * SECOND;
            assert!(begun || soon, "nobody answers {:?}", pending.report);
        }
    }
}

fn moments(time: Time) -> Now {
    Now {
        boot: Moment::from_millis(i64::try_from(time.now).unwrap()),
        wall: SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(time.wall).unwrap()),
    }
}

fn longest_pause(remedy: Remedy) -> u64 {
    SECOND
        * match remedy {
            Remedy::BackOff | Remedy::Slowly | Remedy::IpList => 60,
            Remedy::NextMinute => 65,
            Remedy::Refused(_) => 600,
            Remedy::RiskPending => 300,
            Remedy::RiskRejected(span) => span.as_secs(),
            Remedy::DayQuota => 3600,
        }
}
