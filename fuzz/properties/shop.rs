//! Whom the requests of an input are sent to: tokens of two apps, two consumers, and the hand that
//! drives them. The clock stands still but while somebody waits.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    runtime::{Builder, Runtime},
    select,
    sync::watch,
};
use wxtokend::{
    clock::Clock,
    domain::{
        AppName, Generation, Moment, Now, Remedy, Secret, Token, Trouble,
        access::{Access, Consumer, Grant, Right},
    },
    tokens::{self, Current, Outcome, Publisher, Tokens, View},
};

/// Of `orders`, who may get and report the tokens of `shop`, whose appid is `wx1`.
pub(crate) const KEY: &str = "quokka-orders";

/// Of `ops`, who may do everything, with `other` (`wx2`) as well.
pub(crate) const ADMIN_KEY: &str = "quokka-ops";

/// Of `shop`; `other` has none.
pub(crate) const TOKEN: &str = "70_quokka-token";

pub(crate) const GENERATION: u64 = 7;

/// What the SDK of `orders` subtracts, in seconds.
pub(crate) const MARGIN: u64 = 600;

pub(crate) struct Shop {
    runtime: Runtime,
    tokens: Tokens,
    publisher: Publisher,
    _access: watch::Sender<Arc<Access>>,
}

impl Shop {
    /// Also what `open` makes of it inside of its runtime.
    pub(crate) fn new<T>(
        open: impl AsyncFnOnce(Tokens, watch::Receiver<Arc<Access>>) -> T,
    ) -> (Self, T) {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build();
        let runtime = runtime.expect("a runtime can be made");
        let start = Now {
            boot: Moment::since_boot(Duration::from_secs(1000)),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
        };
        let (sender, access) = watch::channel(Arc::new(Access::new(consumers())));
        let (tokens, publisher, opened) = runtime.block_on(async {
            let apps = [("shop", "wx1"), ("other", "wx2")];
            let apps = apps.map(|(name, appid)| (app(name), appid.to_owned()));
            let (tokens, publisher) = tokens::channel(apps, Clock::simulated(start));
            let opened = open(tokens.clone(), access).await;
            (tokens, publisher, opened)
        });
        let shop = Self {
            runtime,
            tokens,
            publisher,
            _access: sender,
        };
        (shop, opened)
    }

    /// What somebody hears. Every report is of a token that still works.
    pub(crate) fn hear<T>(&mut self, heard: impl Future<Output = T>) -> T {
        {
            // Who waits lets time pass, and tokens do not live for ever. Outside of the runtime it would
            // be another time.
            let _inside = self.runtime.enter();
            self.publisher.publish(&app("shop"), alive(&self.tokens));
            self.publisher.publish(&app("other"), refused());
        }
        self.runtime.block_on(async {
            let mut heard = pin!(heard);
            loop {
                select! {
                    biased;
                    heard = heard.as_mut() => return heard,
                    Some(reported) = self.publisher.reports.recv() => {
                        // Whoever has given up does not mind.
                        let _ = reported.reply.send(Ok(Outcome::StillValid));
                    }
                }
            }
        })
    }
}

pub(crate) fn app(name: &str) -> AppName {
    AppName::parse(name).expect("a good name")
}

fn consumers() -> Vec<Consumer> {
    let orders = Grant {
        holder: "orders".into(),
        apps: Some([app("shop")].into()),
        rights: [Right::Read, Right::Refresh].into(),
        margin: Duration::from_secs(MARGIN),
    };
    let consumer = |(key, grant): (&str, Grant)| Consumer {
        key: Secret::new(key),
        grant: Arc::new(grant),
    };
    let all = [(KEY, orders), (ADMIN_KEY, Grant::all())];
    all.map(consumer).into()
}

fn alive(tokens: &Tokens) -> View {
    let now = tokens.now();
    let life = Duration::from_hours(2);
    let token = Token {
        value: Secret::new(TOKEN),
        generation: Generation(GENERATION),
        asked_at: now.boot,
        expires_at: now.boot + life,
        issue_time: now.wall,
        expire_time: now.wall + life,
    };
    let current = Current {
        token: Arc::new(token),
        keep_until: now.boot + life / 2,
        keep_at_most: None,
        certain_until: None,
        doubt: None,
        previous_expires_at: None,
        published_at: now.boot,
        dead: false,
    };
    View {
        current: Some(current),
        settled: true,
        ..View::default()
    }
}

fn refused() -> View {
    let trouble = Trouble {
        remedy: Remedy::BackOff,
        errcode: Some(-1),
        definite: true,
        message: "系统繁忙".repeat(200).into(),
        hint: None,
    };
    View {
        trouble: Some(Arc::new(trouble)),
        settled: true,
        ..View::default()
    }
}
