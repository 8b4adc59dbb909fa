//! The control endpoint: for people with `curl` and for programs in other languages.
//!
//! It answers under `/sandbox`, beside WeChat's paths, during every fault and outage but one: while
//! connections are refused nobody can lift that, so over HTTP such an outage needs an end.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Account, Call, Knobs, Mint, Model, Outage, Pool, Reply, quota::day};

const HELP: &str = "\
A simulated WeChat. The paths of the real one:

GET  /cgi-bin/token?grant_type=client_credential&appid=A&secret=S
POST /cgi-bin/stable_token      {\"grant_type\":\"client_credential\",\"appid\":\"A\",\"secret\":\"S\",\"force_refresh\":false}
GET  /cgi-bin/get_api_domain_ip?access_token=T      (also /cgi-bin/getcallbackip, /cgi-bin/user/get)

Its own (appid may be left out if there is one account; pool: classic, stable):

GET  /sandbox                                       this text
GET  /sandbox/state                                 counts, settings, faults, tokens
POST /sandbox/knobs                                 a JSON object, see below; all or nothing
POST /sandbox/foreign_fetch?appid=A&pool=classic    somebody else fetches (stable: forced)
POST /sandbox/revoke?appid=A&pool=classic           the current token dies at once
POST /sandbox/reset                                 back to the start, with new tokens

Knobs. Spans are numbers of seconds, shares are 0 to 1, what is left out stays.

life, overlap               of new tokens; of replaced ones
forced_kills, heals_revoked true: a forced refresh leaves no overlap; stable replaces a revoked token
latency, jitter             every reply takes latency, and up to jitter more
busy_rate, lost_rate        shares of calls answered -1; carried out without a reply
hang                        how long a call hangs that hangs
back_ends, lag              1-4 back ends judge tokens, each up to lag late
survival, survives_for      chance that a replaced token outlives the overlap; for how long at most
classic_per_day, classic_per_minute, stable_per_day, stable_per_minute, forced_per_day, force_gap
outage, outage_for          none, refuse (needs outage_for), cut, hang, gateway
clear_faults                true: forgets the faults there are
faults                      adds faults:
    kind                    errcode, hang, late, lost, cut, truncated, gateway, empty, reply
    endpoint, appid         classic, stable, business; whose calls
    calls, probability      strikes so many calls; with this chance
    carried_out             false: nothing is minted (default true: the mint happens, the reply goes wrong)
    after                   late: carried out so long after it arrived
    errcode, errmsg         of errcode
    status, content_type, body      of reply
appid                       which account the rest concerns; default all
change_delay                after what time the rest takes effect
secret, secret_frozen, ip_list, ip_list_on_business, component
risk, risk_ip               89501, 89503, 89506, 89507 or 0; whose calls
ban                         50004, 50007, 48001, 48004, 50002 or 0

curl -d '{\"faults\":[{\"kind\":\"lost\",\"endpoint\":\"classic\",\"calls\":1}]}' localhost:PORT/sandbox/knobs
";

/// How many tokens of a pool the state shows.
const SHOWN: usize = 8;

/// Answers calls under `/sandbox`; `None` for all others.
pub(super) fn answer(model: &mut Model, at: Duration, call: &Call) -> Option<Reply> {
    let path = call.path.strip_prefix("/sandbox")?;
    if !(path.is_empty() || path.starts_with('/')) {
        return None;
    }
    model.advance(at);
    let done = |outcome: Result<Value, String>| match outcome {
        Ok(value) => Reply::json(value),
        Err(told) => refused(400, &told),
    };
    Some(match (path, call.method.as_str()) {
        ("" | "/", "GET") => Reply {
            content_type: "text/plain; charset=utf-8".into(),
            ..Reply::json(HELP)
        },
        ("/state", "GET") => Reply::json(state(model, at)),
        ("/knobs", "POST") => done(turn(model, at, &call.body)),
        ("/foreign_fetch", "POST") => done(foreign_fetch(model, at, call)),
        ("/revoke", "POST") => done(revoke(model, at, call)),
        ("/reset", "POST") => {
            model.reset();
            Reply::json(json!({}))
        }
        ("" | "/" | "/state", _) => refused(405, "use GET"),
        ("/knobs" | "/foreign_fetch" | "/revoke" | "/reset", _) => refused(405, "use POST"),
        _ => refused(404, "see `GET /sandbox` for what there is"),
    })
}

fn refused(status: u16, told: &str) -> Reply {
    Reply {
        status,
        ..Reply::json(json!({ "error": told }))
    }
}

fn turn(model: &mut Model, at: Duration, body: &str) -> Result<Value, String> {
    let knobs: Knobs = serde_json::from_str(body).map_err(|error| error.to_string())?;
    if knobs.outage == Some(Outage::Refuse) && knobs.outage_for.is_none() {
        return Err(
            "an outage that refuses connections needs `outage_for`: nobody could lift it".into(),
        );
    }
    model.turn(at, &knobs)?;
    Ok(json!({}))
}

fn foreign_fetch(model: &mut Model, at: Duration, call: &Call) -> Result<Value, String> {
    let (appid, pool) = target(model, call)?;
    let refused = |errcode| format!("WeChat refuses it with errcode {errcode}");
    model.foreign_fetch(at, &appid, pool).map_err(refused)?;
    Ok(json!({}))
}

fn revoke(model: &mut Model, at: Duration, call: &Call) -> Result<Value, String> {
    let (appid, pool) = target(model, call)?;
    Ok(json!({ "revoked": model.revoke(at, &appid, pool) }))
}

/// Which account and pool a call names.
fn target(model: &Model, call: &Call) -> Result<(String, Pool), String> {
    let pool = match call.parameter("pool") {
        None | Some("classic") => Pool::Classic,
        Some("stable") => Pool::Stable,
        Some(other) => return Err(format!("`{other}` is not a pool: `classic` or `stable`")),
    };
    let known = || model.accounts.keys();
    let appid = match call.parameter("appid") {
        Some(appid) => appid,
        None if known().count() == 1 => known().next().expect("there is one"),
        None => return Err("there are several accounts: say `?appid=`".into()),
    };
    if model.account(appid).is_none() {
        return Err(format!("there is no account `{appid}`"));
    }
    Ok((appid.to_owned(), pool))
}

fn state(model: &Model, at: Duration) -> Value {
    let account = |(appid, account): (&String, &Account)| {
        let tokens = |pool| -> Vec<Value> {
            let newest = account.mints(pool).rev().take(SHOWN);
            newest.map(|mint| token(mint, at)).collect()
        };
        json!({
            "appid": appid,
            "counts": account.counts(),
            "forced_today": account.forced_today(at),
            "classic": tokens(Pool::Classic),
            "stable": tokens(Pool::Stable),
        })
    };
    json!({
        "time": at.as_secs_f64(),
        "beijing_day": day(at),
        "counts": model.counts(),
        "settings": model.settings,
        "outage": model.outage(at),
        "faults": model.faults,
        "accounts": model.accounts.iter().map(account).collect::<Vec<_>>(),
    })
}

fn token(mint: &Mint, at: Duration) -> Value {
    let left = mint.lives_until().saturating_sub(at);
    json!({
        "number": mint.number,
        "value": mint.value,
        "age": at.saturating_sub(mint.at).as_secs_f64(),
        "life_left": left.as_secs_f64(),
        "alive": !left.is_zero(),
        "asker": mint.asker,
        "delivered": mint.delivered,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Credentials, Settings};

    const AT: Duration = Duration::from_secs(1_800_000_007);

    fn model() -> Model {
        Model::new(Settings::default(), 1)
    }

    fn ask(model: &mut Model, method: &str, target: &str, body: &str) -> (u16, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs: Vec<_> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let call = Call {
            method: method.into(),
            body: body.into(),
            ..Call::get(path, &pairs)
        };
        let reply = answer(model, AT, &call).unwrap();
        (reply.status, reply.body)
    }

    #[test]
    fn the_help_names_every_path_and_every_knob() {
        let (_, help) = ask(&mut model(), "GET", "/sandbox", "");
        let known = |body: &str| {
            let (_, told) = ask(&mut model(), "POST", "/sandbox/knobs", body);
            let names: Vec<String> = told
                .split('`')
                .skip(3)
                .step_by(2)
                .map(str::to_owned)
                .collect();
            names
        };
        let knobs = known(r#"{"x":1}"#);
        let faults = known(r#"{"faults":[{"x":1}]}"#);
        let kinds = known(r#"{"faults":[{"kind":"x"}]}"#);
        assert_eq!((knobs.len(), faults.len(), kinds.len()), (33, 12, 9));
        for name in knobs.iter().chain(&faults).chain(&kinds) {
            assert!(help.contains(name.as_str()), "{name}");
        }
        for path in ["state", "knobs", "foreign_fetch", "revoke", "reset"] {
            assert!(help.contains(&format!("/sandbox/{path}")), "{path}");
        }
    }

    #[test]
    fn the_state_shows_what_happened() {
        let mut model = model();
        model.handle(
            AT.saturating_sub(Duration::from_secs(10)),
            &Call::classic(&Credentials::default()),
        );
        ask(&mut model, "POST", "/sandbox/foreign_fetch", "");
        let (_, body) = ask(&mut model, "GET", "/sandbox/state", "");
        assert!(!body.contains(&Credentials::default().secret));
        let state: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(state["counts"]["classic_mints"], 2);
        assert_eq!(state["counts"]["foreign_mints"], 1);
        assert_eq!(state["settings"]["life"], 7200.0);
        assert_eq!(state["outage"], "none");
        let tokens = &state["accounts"][0]["classic"];
        assert_eq!(
            (&tokens[0]["asker"], &tokens[1]["asker"]),
            (&json!("foreign"), &json!("caller"))
        );
        assert_eq!(
            (&tokens[1]["age"], &tokens[1]["life_left"]),
            (&json!(10.0), &json!(300.0))
        );
    }

    #[test]
    fn knobs_turn_all_or_not_at_all() {
        let mut model = model();
        let (status, told) = ask(
            &mut model,
            "POST",
            "/sandbox/knobs",
            r#"{"life":6,"lag":"x"}"#,
        );
        assert_eq!(
            (status, model.settings.life.as_secs()),
            (400, 7200),
            "{told}"
        );
        let (status, _) = ask(
            &mut model,
            "POST",
            "/sandbox/knobs",
            r#"{"life":6,"lag":2}"#,
        );
        assert_eq!((status, model.settings.life.as_secs()), (200, 6));
    }

    #[test]
    fn nobody_can_lock_himself_out() {
        let mut model = model();
        let mut knobs = |body| ask(&mut model, "POST", "/sandbox/knobs", body).0;
        assert_eq!(knobs(r#"{"outage":"refuse"}"#), 400);
        assert_eq!(knobs(r#"{"outage":"refuse","outage_for":5}"#), 200);
        assert_eq!(knobs(r#"{"outage":"hang"}"#), 200);
        assert_eq!(knobs(r#"{"outage":"none"}"#), 200);
    }

    #[test]
    fn wrong_calls_are_told_what_is_wrong() {
        for (method, target, status, word) in [
            ("POST", "/sandbox", 405, "GET"),
            ("GET", "/sandbox/knobs", 405, "POST"),
            ("GET", "/sandbox/x", 404, "GET /sandbox"),
            ("POST", "/sandbox/knobs", 400, "EOF"),
            ("POST", "/sandbox/revoke?appid=wxother", 400, "`wxother`"),
            ("POST", "/sandbox/revoke?pool=x", 400, "`stable`"),
        ] {
            let (got, body) = ask(&mut model(), method, target, "");
            assert_eq!(got, status, "{method} {target}");
            assert!(body.contains(word), "{body}");
        }
        let mut forced = Model::new(
            Settings {
                forced_per_day: 0,
                ..Settings::default()
            },
            1,
        );
        let (_, told) = ask(
            &mut forced,
            "POST",
            "/sandbox/foreign_fetch?pool=stable",
            "",
        );
        assert!(told.contains("45009"), "{told}");
    }

    #[test]
    fn several_accounts_must_be_told_apart() {
        let other = Credentials {
            appid: "wxother".into(),
            secret: String::new(),
        };
        let accounts = vec![Credentials::default(), other];
        let mut model = Model::new(
            Settings {
                accounts,
                ..Settings::default()
            },
            1,
        );
        assert_eq!(ask(&mut model, "POST", "/sandbox/foreign_fetch", "").0, 400);
        assert_eq!(
            ask(
                &mut model,
                "POST",
                "/sandbox/foreign_fetch?appid=wxother",
                ""
            )
            .0,
            200
        );
        assert_eq!(model.account("wxother").unwrap().counts().foreign_mints, 1);
    }

    #[test]
    fn wechats_paths_are_not_ours() {
        for path in ["/cgi-bin/token", "/sandboxes", "/"] {
            assert!(answer(&mut model(), AT, &Call::get(path, &[])).is_none());
        }
    }
}
