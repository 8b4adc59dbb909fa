//! What can happen to a token.

use std::{fmt, time::Duration};

use proptest::prelude::*;
use wxtokend::domain::{Remedy, Sight, trouble::Refused};

/// What an app is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) classic: bool,
    /// Whether the token is looked at unasked, and how often it may be replaced a day.
    pub(super) looks: bool,
    pub(super) daily: u32,
}

impl Kind {
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let daily = prop_oneof![Just(200), 1_u32..5];
        (any::<bool>(), any::<bool>(), daily).prop_map(|(classic, looks, daily)| Self {
            classic,
            looks,
            daily,
        })
    }
}

#[derive(Clone, Copy)]
pub(super) enum Event {
    /// Seconds go by. What is due meanwhile is begun, and WeChat answers nothing.
    Wait(u64),
    /// Time goes by until something is due.
    Due,
    /// The fetch that is under way, or due next, comes back.
    Answer(Answer),
    /// The look that is under way comes back.
    See(Sight),
    Report(Report),
    /// The server is killed and started again at once.
    Restart,
    /// The same, but just before it could save what readers have seen already.
    RestartUnsaved,
    /// The wall clock is set by so many hours.
    SetClock(i64),
    /// An operator's signal, or a new secret.
    Nudge,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// A new token.
    New,
    /// Stable: the same as before.
    Same,
    /// WeChat made no token.
    No(Remedy),
    /// Nobody knows.
    Lost,
}

/// A caller complains.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    pub(super) of: Of,
    pub(super) errcode: i64,
    pub(super) leaked: bool,
}

/// Which token is meant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Of {
    Current,
    CurrentByValue,
    Older,
    Newer,
}

/// On one line, so that a life can be read.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wait(seconds) => write!(f, "Wait {seconds} s"),
            Self::Due => f.write_str("Due"),
            Self::Answer(answer) => write!(f, "Answer {answer:?}"),
            Self::See(sight) => write!(f, "See {sight:?}"),
            Self::Report(report) => write!(f, "{report:?}"),
            Self::Restart => f.write_str("Restart"),
            Self::RestartUnsaved => f.write_str("RestartUnsaved"),
            Self::SetClock(hours) => write!(f, "SetClock {hours:+} h"),
            Self::Nudge => f.write_str("Nudge"),
        }
    }
}

impl Event {
    pub(super) fn any() -> Vec<(u32, BoxedStrategy<Self>)> {
        let span = prop_oneof![1_u64..15, 15_u64..400, 400_u64..4000];
        vec![
            (3, span.prop_map(Self::Wait).boxed()),
            (8, Just(Self::Due).boxed()),
            (6, Just(Self::Answer(Answer::New)).boxed()),
            (4, answer().prop_map(Self::Answer).boxed()),
            (8, sight().prop_map(Self::See).boxed()),
            (5, report().prop_map(Self::Report).boxed()),
            (2, Just(Self::Restart).boxed()),
            (1, Just(Self::RestartUnsaved).boxed()),
            (1, (-30_i64..30).prop_map(Self::SetClock).boxed()),
            (1, Just(Self::Nudge).boxed()),
        ]
    }
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        3 => Just(Answer::Same),
        4 => Just(Answer::Lost),
        3 => remedy().prop_map(Answer::No),
    ]
}

fn remedy() -> impl Strategy<Value = Remedy> {
    prop_oneof![
        4 => Just(Remedy::BackOff),
        1 => Just(Remedy::NextMinute),
        1 => Just(Remedy::Slowly),
        1 => Just(Remedy::Refused(Refused::Credential)),
        1 => Just(Remedy::IpList),
        1 => Just(Remedy::RiskPending),
        1 => Just(Remedy::RiskRejected(Duration::from_hours(1))),
        1 => Just(Remedy::DayQuota),
    ]
}

fn sight() -> impl Strategy<Value = Sight> {
    prop_oneof![
        3 => Just(Sight::Alive),
        5 => Just(Sight::Refused),
        1 => Just(Sight::Unreachable),
        1 => Just(Sight::Busy),
        1 => prop_oneof![Just(45009), Just(48001)].prop_map(|errcode| Sight::NoVerdict { errcode }),
    ]
}

fn report() -> impl Strategy<Value = Report> {
    let of = prop_oneof![
        6 => Just(Of::Current),
        2 => Just(Of::CurrentByValue),
        1 => Just(Of::Older),
        1 => Just(Of::Newer),
    ];
    let errcode = prop_oneof![
        5 => Just(40001),
        1 => Just(0),
        1 => Just(42001),
        1 => Just(45009),
    ];
    let leaked = prop_oneof![6 => Just(false), 1 => Just(true)];
    (of, errcode, leaked).prop_map(|(of, errcode, leaked)| Report {
        of,
        errcode,
        leaked,
    })
}
