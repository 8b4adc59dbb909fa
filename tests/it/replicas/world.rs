//! What there is: replicas, one store, WeChat, and messages on their way between them.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use wxtokend::domain::protocol::{Heard, Protocol, Step};

pub(super) type Id = usize;

/// Tokens are numbered in the order in which WeChat made them, generations as they are.
pub(super) type Number = u8;

/// A generation and the token it names.
pub(super) type Named = (Number, Number);

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct World {
    pub(super) replicas: Vec<Replica>,
    pub(super) store: Store,
    pub(super) wechat: WeChat,
    /// In any order: nothing says that the first that was sent arrives first.
    pub(super) requests: Vec<Request>,
    pub(super) replies: Vec<(Request, Reply)>,
    /// How many requests were sent.
    pub(super) asked: u8,
    /// Which token each generation that a reader saw was given to.
    pub(super) names: BTreeMap<Number, Number>,
    /// WeChat made a token for a request that nobody waited for any more, or whose claim was lost.
    pub(super) stray: bool,
    pub(super) faults: Faults,
    /// The disk failed, and then whoever could have written later what readers saw crashed or lost its
    /// claim. Of two such faults together nothing is promised but that fresh tokens come.
    pub(super) forgotten: bool,
    /// The promise that was broken.
    pub(super) broken: Option<&'static str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct Store {
    pub(super) record: Named,
    /// The generation that is reserved for a token that was asked for.
    pub(super) note: Option<Number>,
    pub(super) claim: Option<Id>,
    /// A write that its sender has given up, and that may arrive yet.
    pub(super) late: Option<Late>,
    /// How often a claim was taken: tells a request of one claim from those of the next.
    pub(super) epoch: u8,
}

/// A write under way. It names the claim that it is made under and the version that it replaces.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct Late {
    pub(super) record: Named,
    pub(super) note: Option<Number>,
    pub(super) epoch: u8,
    /// Another write was first.
    pub(super) outdated: bool,
}

impl Store {
    /// The highest generation that is taken, as far as the store can tell: whoever found the note gave
    /// the old token the one above it.
    pub(super) fn known(&self) -> Number {
        let saved = self.record.0;
        self.note.map_or(saved, |reserved| 1 + reserved.max(saved))
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct WeChat {
    pub(super) current: Number,
    /// The token in force is old: a new one is due.
    pub(super) due: bool,
}

/// One request, with who sent it under which claim.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Request {
    pub(super) number: u8,
    pub(super) id: Id,
    pub(super) epoch: u8,
    /// Whether the sender held the claim at all.
    pub(super) claimed: bool,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reply {
    Token(Number),
    Refusal,
}

/// How often each fault has happened.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Faults {
    pub(super) dues: u8,
    pub(super) crashes: u8,
    pub(super) pauses: u8,
    pub(super) losses: u8,
    pub(super) disk: u8,
    pub(super) delays: u8,
}

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) up: bool,
    /// What readers are given; nothing before it is safe to say.
    pub(super) shown: Option<Named>,
    /// The newest generation that its readers ever saw, before a crash as well.
    pub(super) seen: Number,
    pub(super) run: Option<Run>,
    /// The outcome of an earlier request is open.
    pub(super) open: bool,
    /// It asked WeChat although the note could not be written, and nothing was saved since.
    pub(super) unnoted: bool,
}

/// One fetch.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) protocol: Protocol,
    pub(super) step: Step,
    pub(super) generation: Number,
    /// The request whose answer is waited for.
    pub(super) asked: Option<u8>,
    pub(super) got: Option<Number>,
    pub(super) open: bool,
}

impl World {
    /// `replicas` that have agreed on the first token.
    pub(super) fn new(replicas: usize) -> Self {
        let replica = Replica {
            up: true,
            shown: Some((1, 1)),
            seen: 1,
            ..Replica::default()
        };
        Self {
            replicas: vec![replica; replicas],
            store: Store {
                record: (1, 1),
                note: None,
                late: None,
                claim: None,
                epoch: 0,
            },
            wechat: WeChat {
                current: 1,
                due: false,
            },
            requests: Vec::new(),
            replies: Vec::new(),
            asked: 0,
            names: BTreeMap::from([(1, 1)]),
            stray: false,
            faults: Faults::default(),
            forgotten: false,
            broken: None,
        }
    }

    pub(super) fn holds_the_claim(&self, id: Id) -> bool {
        self.store.claim == Some(id)
    }

    /// Whether the sender of `request` still waits for its answer.
    pub(super) fn is_awaited(&self, request: Request) -> bool {
        let run = self.replicas[request.id].run.as_ref();
        run.is_some_and(|run| run.asked == Some(request.number))
    }

    /// Whether `request` was sent under a claim, and is no more what that claim was taken for.
    pub(super) fn is_stray(&self, request: Request) -> bool {
        let held = self.holds_the_claim(request.id) && self.store.epoch == request.epoch;
        request.claimed && !(held && self.is_awaited(request))
    }

    /// The step that replica `id` has to take, unless it waits for WeChat.
    pub(super) fn step(&self, id: Id) -> Option<Step> {
        let run = self.replicas[id].run.as_ref();
        run.filter(|run| run.asked.is_none()).map(|run| run.step)
    }

    pub(super) fn hear(&mut self, id: Id, heard: Heard) {
        let replica = &mut self.replicas[id];
        let Some(run) = &mut replica.run else {
            return;
        };
        run.step = run.protocol.next(heard);
        if run.step == Step::Done {
            replica.open = run.open;
            replica.run = None;
        }
    }

    /// Readers of `id` are given `named`.
    pub(super) fn show(&mut self, id: Id, named: Named) {
        let (generation, token) = named;
        let replica = &mut self.replicas[id];
        replica.shown = Some(named);
        let fell = generation < replica.seen;
        replica.seen = replica.seen.max(generation);
        if fell {
            self.breaks("a generation fell");
        }
        if *self.names.entry(generation).or_insert(token) != token {
            self.breaks("a generation names two tokens");
        }
    }

    /// The record is replaced.
    pub(super) fn save(&mut self, named: Named, note: Option<Number>) {
        if named.1 < self.store.record.1 {
            self.breaks("an older token was saved over a newer one");
        }
        (self.store.record, self.store.note) = (named, note);
        if let Some(late) = &mut self.store.late {
            late.outdated = true;
        }
    }

    pub(super) fn breaks(&mut self, promise: &'static str) {
        if !self.forgotten {
            self.broken = Some(promise);
        }
    }

    /// Tidies up after a step: what makes no difference is made equal, so that fewer worlds differ.
    pub(super) fn settled(mut self) -> Self {
        let mut replies = std::mem::take(&mut self.replies);
        replies.retain(|(request, _)| self.is_awaited(*request));
        self.replies = replies;
        self.notice_what_is_forgotten();
        self.in_order()
    }

    fn notice_what_is_forgotten(&mut self) {
        if self.faults.disk == 0 {
            return;
        }
        let known = self.store.known();
        let lost = |(id, replica): (Id, &Replica)| {
            let helpless = !replica.up || !self.holds_the_claim(id);
            helpless && (replica.unnoted || replica.seen > known)
        };
        self.forgotten |= self.replicas.iter().enumerate().any(lost);
    }

    /// Replicas are alike: worlds that differ only in who is who are one.
    fn in_order(mut self) -> Self {
        let print = |id: &Id| {
            let mut hasher = DefaultHasher::new();
            self.replicas[*id].hash(&mut hasher);
            let sent = self.requests.iter().filter(|r| r.id == *id);
            sent.for_each(|request| request.number.hash(&mut hasher));
            (!self.holds_the_claim(*id), hasher.finish())
        };
        let mut order: Vec<Id> = (0..self.replicas.len()).collect();
        order.sort_by_cached_key(print);
        let place = |id: Id| order.iter().position(|was| *was == id).unwrap();
        self.replicas = order.iter().map(|id| self.replicas[*id].clone()).collect();
        self.store.claim = self.store.claim.map(place);
        for request in &mut self.requests {
            request.id = place(request.id);
        }
        for (request, _) in &mut self.replies {
            request.id = place(request.id);
        }
        self.requests.sort_unstable();
        self.replies.sort_unstable();
        self
    }
}
