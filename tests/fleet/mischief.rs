//! What is done to a fleet, its store and its ways, at random and several things at a time.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{
    checker::{Trouble, Troubles},
    engines::{Engine, Etcd, Redis},
    links::Link,
    replicas::{Fleet, longest_fault},
};

/// So many things are wrong at a time, at most.
const AT_ONCE: usize = 2;

/// The pause between two of them, at most.
const PAUSE: Duration = Duration::from_secs(6);

/// One thing that is wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill(usize),
    Stop(usize),
    Drain(usize),
    CutFromStore(usize),
    CutFromWeChat(usize),
    CutAllFromStore,
    WeChatDown,
    KillMember(usize),
    StopMember(usize),
    CutMember(usize),
}

/// What they share.
pub(crate) enum Store {
    Etcd(Etcd),
    Redis(Redis),
}

impl Store {
    async fn leader(&self) -> usize {
        match self {
            Self::Etcd(etcd) => etcd.leader().await.unwrap_or(0),
            Self::Redis(_) => 0,
        }
    }

    fn members(&mut self) -> &mut Vec<Engine> {
        match self {
            Self::Etcd(etcd) => &mut etcd.members,
            Self::Redis(redis) => &mut redis.servers,
        }
    }

    /// Replicas still reach it. With one server alone there is nothing to cut.
    fn cut(&self, member: usize, off: bool) {
        match self {
            Self::Etcd(etcd) if off => etcd.network.cut_off(member),
            Self::Etcd(etcd) => etcd.network.mend(member),
            Self::Redis(_) => {}
        }
    }
}

impl Fault {
    /// The leader of the store is hit by half of what hits members.
    async fn any(store: &mut Store) -> Self {
        loop {
            let fault = Self::one_of_all(store).await;
            // Between the members of a store with one there is nothing to cut.
            let cut = matches!(fault, Self::CutMember(_));
            if !cut || store.members().len() > 1 {
                return fault;
            }
        }
    }

    async fn one_of_all(store: &mut Store) -> Self {
        let (n, leader) = (fastrand::usize(..3), store.leader().await);
        let member = n % store.members().len();
        match fastrand::u8(..13) {
            0 => Self::Kill(n),
            1 => Self::Stop(n),
            2 => Self::Drain(n),
            3 => Self::CutFromStore(n),
            4 => Self::CutFromWeChat(n),
            5 => Self::CutAllFromStore,
            6 => Self::KillMember(member),
            7 => Self::StopMember(member),
            8 => Self::CutMember(member),
            9 => Self::KillMember(leader),
            10 => Self::StopMember(leader),
            11 => Self::CutMember(leader),
            _ => Self::WeChatDown,
        }
    }

    /// Longer than a lease at most. A process that is killed is started soon, and WeChat is not away for long.
    fn span(self) -> Duration {
        let span = longest_fault().mul_f64(0.06 + 0.94 * fastrand::f64());
        match self {
            Self::Kill(_) | Self::Drain(_) | Self::KillMember(_) => span / 2,
            Self::WeChatDown => span / 4,
            _ => span,
        }
    }

    /// The replicas that it keeps from hearing of others.
    fn hits(self) -> Vec<usize> {
        match self {
            Self::Kill(n) | Self::Stop(n) | Self::Drain(n) | Self::CutFromStore(n) => vec![n],
            // It could not tell anybody what it has lost.
            Self::CutFromWeChat(_) | Self::WeChatDown => Vec::new(),
            _ => vec![0, 1, 2],
        }
    }

    /// The replica that cannot answer.
    fn mutes(self) -> Option<usize> {
        match self {
            Self::Kill(n) | Self::Stop(n) | Self::Drain(n) => Some(n),
            _ => None,
        }
    }

    fn member(self) -> Option<usize> {
        match self {
            Self::KillMember(n) | Self::StopMember(n) | Self::CutMember(n) => Some(n),
            _ => None,
        }
    }

    /// One process can be hit once at a time.
    fn excludes(self, other: Self) -> bool {
        let same = |one: Option<usize>, other| one.is_some() && one == other;
        self == other || same(self.mutes(), other.mutes()) || same(self.member(), other.member())
    }
}

/// What is wrong, and what was.
pub(crate) struct Mischief {
    pub(crate) begin: Instant,
    active: Vec<(Fault, Instant, Instant)>,
    pub(crate) troubles: Troubles,
    pub(crate) told: Vec<String>,
}

impl Mischief {
    pub(crate) fn new() -> Self {
        Self {
            begin: Instant::now(),
            active: Vec::new(),
            troubles: Troubles::default(),
            told: Vec::new(),
        }
    }

    /// Goes on for `span`, and mends everything.
    pub(crate) async fn go_on(&mut self, span: Duration, fleet: &mut Fleet, store: &mut Store) {
        let end = Instant::now() + span;
        let mut next = Instant::now();
        loop {
            let mended = self.active.iter().map(|(_, _, to)| *to).min();
            let begins = Some(next).filter(|_| self.active.len() < AT_ONCE);
            let at = mended
                .into_iter()
                .chain(begins)
                .min()
                .expect("one of them")
                .min(end);
            sleep_until(at).await;
            if Instant::now() >= end {
                break;
            }
            if mended.is_some_and(|to| to <= at) {
                self.mend(at, fleet, store).await;
            } else {
                let fault = Fault::any(store).await;
                if !self.active.iter().any(|(other, ..)| fault.excludes(*other)) {
                    let now = Instant::now();
                    self.active.push((fault, now, now + fault.span()));
                    set(fault, true, fleet, store).await;
                    self.hold(fleet, store);
                }
                next = Instant::now() + PAUSE.mul_f64(fastrand::f64());
            }
        }
        while let Some(last) = self.active.iter().map(|(_, _, to)| *to).max() {
            self.mend(last, fleet, store).await;
        }
    }

    /// Ends what is to end by then.
    async fn mend(&mut self, by: Instant, fleet: &mut Fleet, store: &mut Store) {
        let (over, active) = self.active.drain(..).partition(|(_, _, to)| *to <= by);
        self.active = active;
        let over: Vec<(Fault, Instant, Instant)> = over;
        for (fault, from, _) in over {
            set(fault, false, fleet, store).await;
            self.hold(fleet, store);
            self.told.push(format!(
                "{:?} {fault:?} for {:?}",
                from - self.begin,
                from.elapsed()
            ));
            self.troubles.add(Trouble {
                fault,
                apart: fault.hits(),
                mute: fault.mutes(),
                from,
                to: Instant::now(),
            });
        }
    }

    /// Ways are cut as long as anything cuts them.
    fn hold(&self, fleet: &Fleet, store: &Store) {
        let any = |faults: [Fault; 2]| self.active.iter().any(|(fault, ..)| faults.contains(fault));
        for (n, replica) in fleet.replicas.iter().enumerate() {
            let off = any([Fault::CutFromStore(n), Fault::CutAllFromStore]);
            replica.to_store.iter().for_each(|link| cut(link, off));
            cut(
                &replica.to_wechat,
                any([Fault::CutFromWeChat(n), Fault::WeChatDown]),
            );
            store.cut(n, any([Fault::CutMember(n); 2]));
        }
    }
}

fn cut(link: &Link, off: bool) {
    if off {
        link.cut();
    } else {
        link.mend();
    }
}

/// Begins or ends what happens to a process.
async fn set(fault: Fault, begins: bool, fleet: &mut Fleet, store: &mut Store) {
    match (fault, begins) {
        (Fault::Kill(n), true) => fleet.replicas[n].kill().await,
        (Fault::Drain(n), true) => fleet.replicas[n].drain().await,
        (Fault::Kill(n) | Fault::Drain(n), false) => fleet.replicas[n].start().await,
        (Fault::Stop(n), _) => {
            let process = &fleet.replicas[n].server().process;
            process.signal(if begins { "STOP" } else { "CONT" }).await;
        }
        (Fault::KillMember(n), true) => store.members()[n].kill(),
        (Fault::KillMember(n), false) => store.members()[n].restart(),
        (Fault::StopMember(n), true) => store.members()[n].signal("STOP"),
        (Fault::StopMember(n), false) => store.members()[n].signal("CONT"),
        _ => {}
    }
}
