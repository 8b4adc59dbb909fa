//! The state of the server as metrics tell it, read at the moment of asking.

use crate::{
    domain::{AppName, Now},
    telemetry::{AppFacts, Facts},
    tokens::Tokens,
};

/// Everything that is a state; `stopping` if the server was told to end.
pub(super) fn read(tokens: &Tokens, stopping: bool) -> Facts {
    let now = tokens.now();
    Facts {
        now: now.wall,
        live: tokens.alive(),
        ready: !stopping && tokens.ready(),
        draining: stopping,
        apps: tokens.apps().map(|app| of_app(tokens, app, now)).collect(),
    }
}

fn of_app(tokens: &Tokens, app: &AppName, now: Now) -> AppFacts {
    let view = tokens.view(app);
    let token = view.current.as_ref().map(|current| &current.token);
    AppFacts {
        app: app.clone(),
        expire_time: token.map(|token| now.wall_at(token.expires_at)),
        generation: token.map_or(0, |token| token.generation.0),
        usable: view.usable(now.boot).is_some(),
        suspect: view.suspect,
        budget: (!view.mirrored).then(|| view.allowance.left(now.wall)),
        failing: view.trouble.is_some(),
        store_failing: view.unsaved.is_some(),
        holder: !view.mirrored,
    }
}
