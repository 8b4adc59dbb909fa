//! Calls to replies: what [`Model::handle`] does.
//!
//! First what is wrong with the network, then what was ordered to go wrong with this call, and only
//! then the call itself, in WeChat's order of checks.

use std::time::Duration;

use super::{
    Asker, Call, Delivery, Endpoint, Errcode, Fault, Kind, Model, Outage, Pool, Reply,
    faults::strike, gate::Ask, model::Later, pool::Ring, replies,
};

impl Model {
    /// Answers a call that arrives `at`, counted from the Unix epoch.
    ///
    /// It is carried out on arrival; [`Reply::delay`] is the way back. Here as everywhere a time
    /// before the latest one seen counts as that one: time does not run backwards at WeChat.
    pub fn handle(&mut self, at: Duration, call: &Call) -> Reply {
        self.advance(at);
        let outage = self.outage_reply();
        let Some(endpoint) = Endpoint::of(&call.path) else {
            return outage.unwrap_or_else(|| Reply::bare(404));
        };
        let appid = self.appid_of(endpoint, call);
        self.count(endpoint, call, appid.as_deref());
        let mut reply = match outage {
            Some(reply) => reply,
            None => self.answer(endpoint, call, appid.as_deref()),
        };
        if reply.delivery != Delivery::Refused {
            reply.delay += self.settings.latency + self.settings.jitter.mul_f64(self.dice.f64());
        }
        reply
    }

    fn outage_reply(&self) -> Option<Reply> {
        match self.outage(self.now) {
            Outage::None => None,
            Outage::Refuse => Some(Reply::none(Delivery::Refused)),
            Outage::Cut => Some(Reply::none(Delivery::Lost)),
            Outage::Hang => Some(self.hang()),
            Outage::Gateway => Some(replies::bad_gateway()),
        }
    }

    fn hang(&self) -> Reply {
        Reply {
            delay: self.settings.hang,
            ..Reply::none(Delivery::Hang)
        }
    }

    /// Whose call it is.
    fn appid_of(&self, endpoint: Endpoint, call: &Call) -> Option<String> {
        if endpoint != Endpoint::Business {
            return Ask::read(endpoint, call).ok()?.appid;
        }
        let token = call.parameter("access_token")?;
        let holder = self
            .accounts
            .iter()
            .find(|(_, account)| account.holds(token));
        holder.map(|(appid, _)| appid.clone())
    }

    fn count(&mut self, endpoint: Endpoint, call: &Call, appid: Option<&str>) {
        let account = appid.and_then(|appid| self.accounts.get_mut(appid));
        let counts = account.map_or(&mut self.strangers, |account| &mut account.counts);
        let forced = || Ask::read(endpoint, call).is_ok_and(|ask| ask.forced);
        *match endpoint {
            Endpoint::Classic => &mut counts.classic_fetches,
            Endpoint::Stable if forced() => &mut counts.forced_fetches,
            Endpoint::Stable => &mut counts.stable_fetches,
            Endpoint::Business => &mut counts.looks,
        } += 1;
    }

    fn answer(&mut self, endpoint: Endpoint, call: &Call, appid: Option<&str>) -> Reply {
        if self.dice.f64() < self.settings.busy_rate {
            return self.refusal(self.now, replies::BUSY, endpoint, call);
        }
        let lost = self.dice.f64() < self.settings.lost_rate;
        let (faults, dice) = (&mut self.faults, &mut self.dice);
        let fault = strike(faults, endpoint, appid, || dice.f64());
        match fault.or(lost.then(|| Fault::new(Kind::Lost))) {
            Some(fault) => self.go_wrong(endpoint, call, fault),
            None => self.carry_out(self.now, endpoint, call).0,
        }
    }

    fn go_wrong(&mut self, endpoint: Endpoint, call: &Call, fault: Fault) -> Reply {
        match fault.kind {
            Kind::Errcode => {
                return match &fault.errmsg {
                    Some(errmsg) => replies::error(fault.errcode, errmsg),
                    None => self.refusal(self.now, fault.errcode, endpoint, call),
                };
            }
            Kind::Late => {
                let late = Later::Call(endpoint, call.clone());
                self.later.push((self.now + fault.after, late));
                return self.hang();
            }
            _ => {}
        }
        let good = if fault.carried_out {
            self.carry_out_unseen(self.now, endpoint, call)
        } else {
            self.refusal(self.now, replies::BUSY, endpoint, call)
        };
        match fault.kind {
            Kind::Hang => self.hang(),
            Kind::Lost => Reply::none(Delivery::Lost),
            Kind::Cut => Reply {
                delivery: Delivery::Cut,
                ..good
            },
            Kind::Gateway => replies::bad_gateway(),
            Kind::Empty => Reply::json(""),
            Kind::Reply => Reply {
                status: fault.status,
                content_type: fault.content_type,
                ..Reply::json(fault.body)
            },
            _ => {
                let half = good.body.floor_char_boundary(good.body.len() / 2);
                Reply::json(&good.body[..half])
            }
        }
    }

    fn refusal(
        &mut self,
        at: Duration,
        errcode: Errcode,
        endpoint: Endpoint,
        call: &Call,
    ) -> Reply {
        replies::refusal(errcode, endpoint, call.client_ip, at, &mut self.dice)
    }

    /// Carries a call out whose good reply nobody will see.
    pub(super) fn carry_out_unseen(
        &mut self,
        at: Duration,
        endpoint: Endpoint,
        call: &Call,
    ) -> Reply {
        let (reply, minted) = self.carry_out(at, endpoint, call);
        let ring =
            minted.and_then(|(appid, pool)| Some(self.accounts.get_mut(&appid)?.ring_mut(pool)));
        if let Some(mint) = ring.and_then(Ring::current_mut) {
            mint.delivered = false;
        }
        reply
    }

    /// The reply, and whose token was minted.
    fn carry_out(
        &mut self,
        at: Duration,
        endpoint: Endpoint,
        call: &Call,
    ) -> (Reply, Option<(String, Pool)>) {
        let outcome = match endpoint {
            Endpoint::Business => self.business(at, call).map(|reply| (reply, None)),
            Endpoint::Classic | Endpoint::Stable => self.fetch(at, endpoint, call),
        };
        outcome.unwrap_or_else(|errcode| (self.refusal(at, errcode, endpoint, call), None))
    }

    fn business(&mut self, at: Duration, call: &Call) -> Result<Reply, Errcode> {
        let token = call.parameter("access_token").ok_or(replies::NO_TOKEN)?;
        let mut accounts = self.accounts.values();
        let holder = accounts.find(|account| account.holds(token));
        let account = holder.ok_or(replies::NOT_LATEST)?;
        let back_end = self.dice.usize(..self.settings.back_ends);
        account.judge(at, token, Some(back_end))?;
        account.gate.admit_business(call.client_ip)?;
        Ok(replies::business(&call.path))
    }

    fn fetch(
        &mut self,
        at: Duration,
        endpoint: Endpoint,
        call: &Call,
    ) -> Result<(Reply, Option<(String, Pool)>), Errcode> {
        let ask = Ask::read(endpoint, call)?;
        let appid = ask.appid.as_deref().ok_or(replies::NO_APPID)?;
        let (account, mut world) = self.account_at(at, appid).ok_or(replies::BAD_APPID)?;
        account.gate.admit(at, &ask, call.client_ip)?;
        let (pool, grant) = match endpoint {
            Endpoint::Stable if ask.forced => {
                (Pool::Stable, account.force(&mut world, Asker::Caller)?)
            }
            Endpoint::Stable => (
                Pool::Stable,
                account.fetch_stable(&mut world, Asker::Caller)?,
            ),
            _ => (
                Pool::Classic,
                account.fetch_classic(&mut world, Asker::Caller)?,
            ),
        };
        let reply = replies::granted(&grant.value, grant.expires_in);
        Ok((reply, grant.minted.then(|| (appid.to_owned(), pool))))
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::sandbox::given::*;
    use crate::sandbox::{Credentials, Knobs, Settings};

    /// What a call is answered whose query or body was spoiled.
    fn told(spoil: impl Fn(&mut Call), call: &Call) -> Option<i64> {
        let mut call = call.clone();
        spoil(&mut call);
        errcode(&model().handle(START, &call))
    }

    fn without(key: &'static str) -> impl Fn(&mut Call) {
        move |call| call.query.retain(|(name, _)| name != key)
    }

    fn with(key: &'static str, value: &'static str) -> impl Fn(&mut Call) {
        move |call| {
            without(key)(call);
            call.query.push((key.into(), value.into()));
        }
    }

    #[test]
    fn a_malformed_classic_call_is_told_what_is_wrong() {
        let call = classic();
        assert_eq!(told(|_| {}, &call), None);
        assert_eq!(told(without("appid"), &call), Some(41002));
        assert_eq!(told(with("appid", ""), &call), Some(41002));
        assert_eq!(told(with("appid", "wxother"), &call), Some(40013));
        assert_eq!(told(without("secret"), &call), Some(41004));
        assert_eq!(told(with("secret", "wrong"), &call), Some(40125));
        assert_eq!(
            told(with("grant_type", "client_credentials"), &call),
            Some(40002)
        );
        assert_eq!(told(|call| call.method = "POST".into(), &call), Some(43001));
    }

    #[test]
    fn a_malformed_stable_call_is_told_what_is_wrong() {
        let call = Call::stable(&Credentials::default(), false);
        let body = |text: &'static str| move |call: &mut Call| call.body = text.into();
        assert_eq!(told(|_| {}, &call), None);
        assert_eq!(told(|call| call.method = "GET".into(), &call), Some(43002));
        assert_eq!(told(body(""), &call), Some(44002));
        assert_eq!(
            told(body("grant_type=client_credential"), &call),
            Some(47001)
        );
        assert_eq!(told(body("[]"), &call), Some(47001));
        assert_eq!(told(body("{}"), &call), Some(41002));
        assert_eq!(told(body(r#"{"appid":"wxother"}"#), &call), Some(40013));
        assert_eq!(
            told(|call| call.body = call.body.replace("_cred", "-"), &call),
            Some(40002)
        );
        assert_eq!(
            told(
                |call| call.body = call.body.replace("false", "\"no\""),
                &call
            ),
            Some(47001)
        );
    }

    #[test]
    fn business_calls_judge_tokens_of_both_pools() {
        let mut model = model();
        let classic = fetch(&mut model, 0, &classic());
        let stable = fetch(&mut model, 0, &Call::stable(&Credentials::default(), false));
        for path in [
            "/cgi-bin/get_api_domain_ip",
            "/cgi-bin/getcallbackip",
            "/cgi-bin/user/get",
        ] {
            let mut ask = |second, token: &str| {
                let call = Call::get(path, &[("access_token", token)]);
                errcode(&model.handle(at(second), &call))
            };
            assert_eq!(ask(1, &classic), None);
            assert_eq!(ask(1, &stable), None);
            assert_eq!(ask(1, "garbage"), Some(40001));
            assert_eq!(ask(1, ""), Some(41001));
        }
        let expired = model.handle(at(7200), &Call::look(&classic));
        assert_eq!(errcode(&expired), Some(42001));
        assert_eq!(model.counts().looks, 13);
        assert_eq!(model.account(&appid()).unwrap().counts().looks, 7);
    }

    #[test]
    fn a_business_call_can_be_refused_for_where_it_comes_from() {
        let mut model = model();
        let token = fetch(&mut model, 0, &classic());
        let knobs = Knobs {
            ip_list: Some(vec!["192.0.2.1".into()]),
            ip_list_on_business: Some(true),
            ..Knobs::default()
        };
        model.turn(START, &knobs).unwrap();
        let told = json(&model.handle(START, &Call::look(&token)));
        assert_eq!(told["errcode"], 40164);
        let text = told["errmsg"].as_str().unwrap();
        assert!(text.starts_with("invalid ip 127.0.0.1 "), "{text}");
    }

    #[test]
    fn an_unknown_path_is_not_found() {
        let reply = model().handle(START, &Call::get("/cgi-bin/nothing", &[]));
        assert_eq!((reply.status, reply.body.as_str()), (404, ""));
    }

    #[test]
    fn each_fault_spoils_the_reply_but_not_the_mint() {
        for (kind, status, delivery, wait) in [
            (Kind::Hang, 200, Delivery::Hang, 600),
            (Kind::Lost, 200, Delivery::Lost, 0),
            (Kind::Cut, 200, Delivery::Cut, 0),
            (Kind::Truncated, 200, Delivery::Whole, 0),
            (Kind::Gateway, 502, Delivery::Whole, 0),
            (Kind::Empty, 200, Delivery::Whole, 0),
            (Kind::Reply, 200, Delivery::Whole, 0),
        ] {
            let mut model = faulty(Fault::new(kind).times(1));
            let reply = model.handle(START, &classic());
            let got = (reply.status, reply.delivery, reply.delay.as_secs());
            assert_eq!(got, (status, delivery, wait), "{kind:?}");
            let token = newest(&model, Pool::Classic);
            assert_eq!(reply.body.contains(&token), kind == Kind::Cut, "{kind:?}");
            assert_eq!(model.judge(at(1), &appid(), &token), Ok(()));
            fetch(&mut model, 2, &classic());
            let account = model.account(&appid()).unwrap();
            let delivered: Vec<_> = account
                .mints(Pool::Classic)
                .map(|mint| mint.delivered)
                .collect();
            assert_eq!(delivered, [false, true], "{kind:?}");

            let mut model = faulty(Fault::new(kind).in_vain());
            model.handle(START, &classic());
            assert_eq!(model.counts().classic_mints, 0, "{kind:?}");
        }
    }

    #[test]
    fn a_truncated_reply_is_no_json() {
        let mut model = faulty(Fault::new(Kind::Truncated));
        let reply = model.handle(START, &classic());
        assert!(reply.body.starts_with("{\"access_token\":\"98_"));
        assert!(serde_json::from_str::<serde_json::Value>(&reply.body).is_err());
    }

    #[test]
    fn a_refusal_on_purpose_mints_nothing() {
        let mut model = faulty(Fault::errcode(45009).on(Endpoint::Classic).times(2));
        let got = [0, 1, 2].map(|second| errcode(&model.handle(at(second), &classic())));
        assert_eq!(got, [Some(45009), Some(45009), None]);
        let counts = model.counts();
        assert_eq!((counts.classic_fetches, counts.classic_mints), (3, 1));

        let errmsg = Some("quite new".into());
        let mut model = faulty(Fault {
            errmsg,
            ..Fault::errcode(99_999)
        });
        let told = json(&model.handle(START, &classic()));
        assert_eq!(
            (&told["errcode"], &told["errmsg"]),
            (&99_999.into(), &"quite new".into())
        );
    }

    #[test]
    fn rates_are_rates() {
        let rates = Settings {
            busy_rate: 0.25,
            lost_rate: 0.25,
            ..Settings::default()
        };
        let mut model = Model::new(
            Settings {
                classic_per_day: 10_000,
                ..rates
            },
            1,
        );
        let replies: Vec<_> = (0..4000).map(|_| model.handle(START, &classic())).collect();
        let busy = replies
            .iter()
            .filter(|reply| reply.body.contains(":-1,"))
            .count();
        let lost = replies
            .iter()
            .filter(|reply| reply.delivery == Delivery::Lost)
            .count();
        assert!((900..1100).contains(&busy), "{busy}");
        assert!((650..850).contains(&lost), "{lost}"); // a quarter of the others
        assert_eq!(model.counts().classic_mints, 4000 - busy as u64);
    }

    #[test]
    fn latency_is_added_to_every_reply() {
        let (latency, jitter) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut model = Model::new(
            Settings {
                latency,
                jitter,
                ..Settings::default()
            },
            1,
        );
        let delays: Vec<_> = (0..100)
            .map(|_| model.handle(START, &classic()).delay)
            .collect();
        assert!(
            delays
                .iter()
                .all(|delay| (latency..latency + jitter).contains(delay))
        );
        assert!(delays.iter().max() > delays.iter().min());
    }
}
