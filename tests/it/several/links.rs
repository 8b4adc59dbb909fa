//! One replica's process and its ways to the world, as faults leave them.

use std::pin::pin;

use tokio::sync::watch;

/// What becomes of something that is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    #[default]
    Open,
    /// It is refused at once.
    Closed,
    /// It vanishes.
    Silent,
}

/// How things stand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    pub(super) to_store: Way,
    pub(super) back_from_store: Way,
    pub(super) to_wechat: Way,
    pub(super) back_from_wechat: Way,
    /// The store can be read, and takes no writes.
    pub(super) read_only: bool,
    /// The store tells no changes.
    pub(super) deaf: bool,
    /// The process stands still.
    pub(super) stopped: bool,
}

/// One process's, for as long as it lives.
#[derive(Debug, Default)]
pub(super) struct Link {
    state: watch::Sender<State>,
}

impl Link {
    pub(super) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    pub(super) fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Whatever the process still does has no effect and no end.
    pub(super) fn kill(&self) {
        self.set(State {
            stopped: true,
            to_store: Way::Silent,
            to_wechat: Way::Silent,
            ..self.state()
        });
    }

    pub(super) fn to_store(&self) -> Way {
        self.state().to_store
    }

    pub(super) fn back_from_store(&self) -> Way {
        self.state().back_from_store
    }

    pub(super) fn deaf(&self) -> bool {
        self.state().deaf
    }

    /// Runs `work`, but for the time in which the process stands still.
    pub(super) async fn freezes(&self, work: impl Future<Output = ()>) {
        let mut state = self.state.subscribe();
        let mut work = pin!(work);
        loop {
            let stopped = state.borrow_and_update().stopped;
            tokio::select! {
                biased;
                changed = state.changed() => changed.expect("it is here"),
                () = &mut work, if !stopped => return,
            }
        }
    }

    /// Waits while the process stands still.
    pub(super) async fn runs(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !state.stopped).await;
    }
}
