//! Who is let in: secret, IP list, and the states in which WeChat lets nobody in.

use std::{fmt, net::IpAddr, time::Duration};

use serde_json::{Map, Value};

use super::{Call, Credentials, Endpoint, Errcode, Settings, ip_list::IpList, replies};

/// What a caller of a token endpoint says.
pub(super) struct Ask {
    pub(super) appid: Option<String>,
    pub(super) secret: Option<String>,
    pub(super) grant_type: Option<String>,
    pub(super) forced: bool,
}

impl Ask {
    /// Reads a call of a token endpoint.
    pub(super) fn read(endpoint: Endpoint, call: &Call) -> Result<Self, Errcode> {
        match (endpoint, call.method.as_str()) {
            (Endpoint::Stable, "POST") => Self::read_body(&call.body),
            (Endpoint::Stable, _) => Err(replies::NOT_POST),
            (_, "GET") => Ok(Self::read_query(call)),
            _ => Err(replies::NOT_GET),
        }
    }

    fn read_query(call: &Call) -> Self {
        let parameter = |key| call.parameter(key).map(str::to_owned);
        Self {
            appid: parameter("appid"),
            secret: parameter("secret"),
            grant_type: parameter("grant_type"),
            forced: false,
        }
    }

    fn read_body(body: &str) -> Result<Self, Errcode> {
        if body.trim().is_empty() {
            return Err(replies::NO_BODY);
        }
        let body: Map<String, Value> = serde_json::from_str(body).map_err(|_| replies::NOT_JSON)?;
        let field = |key| match body.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok((!text.is_empty()).then(|| text.clone())),
            Some(_) => Err(replies::NOT_JSON),
        };
        let forced = match body.get("force_refresh") {
            None | Some(Value::Null) => false,
            Some(forced) => forced.as_bool().ok_or(replies::NOT_JSON)?,
        };
        Ok(Self {
            appid: field("appid")?,
            secret: field("secret")?,
            grant_type: field("grant_type")?,
            forced,
        })
    }
}

/// WeChat finds a call risky and asks the account's administrator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Risk {
    errcode: Errcode,
    ip: Option<IpAddr>,
    until: Option<Duration>,
}

/// What an operator of the account changes; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub(super) secret: Option<Secret>,
    pub(super) secret_frozen: Option<bool>,
    pub(super) ip_list: Option<IpList>,
    pub(super) ip_list_on_business: Option<bool>,
    pub(super) risk: Option<Errcode>,
    pub(super) risk_ip: Option<IpAddr>,
    pub(super) ban: Option<Errcode>,
    pub(super) component: Option<bool>,
}

/// An AppSecret that no `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What stands between a caller and an account.
#[derive(Debug)]
pub(super) struct Gate {
    secret: Secret,
    secret_frozen: bool,
    ip_list: IpList,
    ip_list_on_business: bool,
    risk: Option<Risk>,
    ban: Option<Errcode>,
    component: bool,
}

impl Gate {
    pub(super) fn new(credentials: &Credentials, settings: &Settings) -> Self {
        Self {
            secret: Secret(credentials.secret.clone()),
            secret_frozen: false,
            ip_list: IpList::parse(&settings.ip_list).expect("`Settings::check` parsed it"),
            ip_list_on_business: settings.ip_list_on_business,
            risk: None,
            ban: None,
            component: false,
        }
    }

    pub(super) fn apply(&mut self, change: &Change, at: Duration) {
        fn set<T: Clone>(target: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                target.clone_from(value);
            }
        }
        set(&mut self.secret, change.secret.as_ref());
        set(&mut self.secret_frozen, change.secret_frozen.as_ref());
        set(&mut self.ip_list, change.ip_list.as_ref());
        set(
            &mut self.ip_list_on_business,
            change.ip_list_on_business.as_ref(),
        );
        set(&mut self.component, change.component.as_ref());
        if let Some(errcode) = change.ban {
            self.ban = (errcode != 0).then_some(errcode);
        }
        if let Some(errcode) = change.risk {
            let until = match errcode {
                89507 => Some(at + Duration::from_hours(1)),
                89506 => Some(at + Duration::from_hours(24)),
                _ => None,
            };
            let ip = change.risk_ip;
            self.risk = (errcode != 0).then_some(Risk { errcode, ip, until });
        }
    }

    /// Whether somebody who says this may have a token, in WeChat's order of checks.
    pub(super) fn admit(&self, at: Duration, ask: &Ask, ip: IpAddr) -> Result<(), Errcode> {
        let refused = [
            (!self.ip_list.allows(ip), replies::IP_NOT_LISTED),
            (ask.secret.is_none(), replies::NO_SECRET),
            (
                ask.grant_type.as_deref() != Some("client_credential"),
                replies::BAD_GRANT_TYPE,
            ),
            (self.secret_frozen, replies::SECRET_FROZEN),
            (
                ask.secret.as_ref() != Some(&self.secret.0),
                replies::BAD_SECRET,
            ),
            (self.component, replies::COMPONENT),
        ];
        match refused.into_iter().find(|&(refused, _)| refused) {
            Some((_, errcode)) => Err(errcode),
            None => self.risk(at, ip).or(self.ban).map_or(Ok(()), Err),
        }
    }

    fn risk(&self, at: Duration, ip: IpAddr) -> Option<Errcode> {
        let risk = self.risk?;
        let here = risk
            .ip
            .is_none_or(|it| it.to_canonical() == ip.to_canonical());
        (here && risk.until.is_none_or(|until| at < until)).then_some(risk.errcode)
    }

    /// Whether a business call with a token that lives is answered.
    pub(super) fn admit_business(&self, ip: IpAddr) -> Result<(), Errcode> {
        if self.ip_list_on_business && !self.ip_list.allows(ip) {
            return Err(replies::IP_NOT_LISTED);
        }
        // The others only forbid to fetch tokens.
        match self.ban {
            Some(errcode @ (48001 | 48004 | 50002)) => Err(errcode),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(1_800_000_007);
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn gate(change: &Change) -> Gate {
        let mut gate = Gate::new(&Credentials::default(), &Settings::default());
        gate.apply(change, AT);
        gate
    }

    fn ask() -> Ask {
        Ask {
            appid: Some(Credentials::default().appid),
            secret: Some(Credentials::default().secret),
            grant_type: Some("client_credential".into()),
            forced: false,
        }
    }

    #[test]
    fn the_first_thing_that_is_wrong_is_told() {
        // From the last check to the first: each addition outranks all before it.
        let (mut change, mut ask) = (Change::default(), ask());
        let told = |change: &Change, ask: &Ask| gate(change).admit(AT, ask, HERE);
        assert_eq!(told(&change, &ask), Ok(()));
        change.ban = Some(50004);
        assert_eq!(told(&change, &ask), Err(50004));
        change.risk = Some(89503);
        assert_eq!(told(&change, &ask), Err(89503));
        change.component = Some(true);
        assert_eq!(told(&change, &ask), Err(61024));
        change.secret = Some(Secret("another".into()));
        assert_eq!(told(&change, &ask), Err(40125));
        change.secret_frozen = Some(true);
        assert_eq!(told(&change, &ask), Err(40243));
        ask.grant_type = Some("client_credentials".into());
        assert_eq!(told(&change, &ask), Err(40002));
        ask.secret = None;
        assert_eq!(told(&change, &ask), Err(41004));
        change.ip_list = Some(IpList::parse(&["192.0.2.1"]).unwrap());
        assert_eq!(told(&change, &ask), Err(40164));
    }

    #[test]
    fn a_rejected_address_is_let_in_again_after_the_stated_time() {
        let elsewhere = "192.0.2.1".parse().unwrap();
        for (errcode, hours) in [(89507, 1), (89506, 24)] {
            let risk_ip = Some(HERE);
            let gate = gate(&Change {
                risk: Some(errcode),
                risk_ip,
                ..Change::default()
            });
            let end = AT + Duration::from_hours(hours);
            let last = end.saturating_sub(Duration::from_secs(1));
            assert_eq!(gate.admit(last, &ask(), HERE), Err(errcode));
            assert_eq!(gate.admit(end, &ask(), HERE), Ok(()));
            assert_eq!(gate.admit(AT, &ask(), elsewhere), Ok(()));
        }
    }

    #[test]
    fn business_calls_ask_the_list_only_where_it_holds_for_them() {
        let ip_list = IpList::parse(&["192.0.2.1"]).ok();
        for (on_business, told) in [(false, Ok(())), (true, Err(40164))] {
            let ip_list_on_business = Some(on_business);
            let change = Change {
                ip_list: ip_list.clone(),
                ip_list_on_business,
                ..Change::default()
            };
            assert_eq!(gate(&change).admit_business(HERE), told);
        }
    }

    #[test]
    fn a_ban_from_fetching_tokens_does_not_kill_those_in_use() {
        for (ban, told) in [(50004, Ok(())), (50007, Ok(())), (48001, Err(48001))] {
            let gate = gate(&Change {
                ban: Some(ban),
                ..Change::default()
            });
            assert_eq!(gate.admit_business(HERE), told);
        }
    }
}
