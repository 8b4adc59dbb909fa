//! WeChat's words: error texts, tokens, and the answers of business calls.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use fastrand::Rng;
use serde_json::json;

use super::{
    Errcode,
    exchange::{Delivery, Reply},
    faults::Endpoint,
};

pub(super) const BUSY: Errcode = -1;
pub(super) const NOT_LATEST: Errcode = 40001;
pub(super) const BAD_GRANT_TYPE: Errcode = 40002;
pub(super) const BAD_APPID: Errcode = 40013;
pub(super) const BAD_SECRET: Errcode = 40125;
pub(super) const IP_NOT_LISTED: Errcode = 40164;
pub(super) const SECRET_FROZEN: Errcode = 40243;
pub(super) const NO_TOKEN: Errcode = 41001;
pub(super) const NO_APPID: Errcode = 41002;
pub(super) const NO_SECRET: Errcode = 41004;
pub(super) const EXPIRED: Errcode = 42001;
pub(super) const NOT_GET: Errcode = 43001;
pub(super) const NOT_POST: Errcode = 43002;
pub(super) const NO_BODY: Errcode = 44002;
pub(super) const QUOTA_DAY: Errcode = 45009;
pub(super) const QUOTA_MINUTE: Errcode = 45011;
pub(super) const NOT_JSON: Errcode = 47001;
pub(super) const COMPONENT: Errcode = 61024;

/// WeChat's refusal.
pub(super) fn refusal(
    errcode: Errcode,
    endpoint: Endpoint,
    ip: IpAddr,
    at: Duration,
    dice: &mut Rng,
) -> Reply {
    let text = match errcode {
        IP_NOT_LISTED => ip_text(ip),
        61004 => format!(
            "access clientip is not registered requestIP: {}",
            ip.to_canonical()
        ),
        _ => wording(errcode, endpoint).to_owned(),
    };
    error(errcode, &format!("{text} rid: {}", rid(at, dice)))
}

/// An error with a text of one's own.
pub(super) fn error(errcode: Errcode, errmsg: &str) -> Reply {
    Reply::json(json!({ "errcode": errcode, "errmsg": errmsg }))
}

fn ip_text(ip: IpAddr) -> String {
    let (v4, v6) = match ip.to_canonical() {
        IpAddr::V4(v4) => (v4, v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => (Ipv4Addr::UNSPECIFIED, v6),
    };
    format!("invalid ip {v4} ipv6 {v6}, not in whitelist")
}

fn wording(errcode: Errcode, endpoint: Endpoint) -> &'static str {
    match (errcode, endpoint) {
        (-1, _) => "system error",
        (40001, Endpoint::Business) => {
            "invalid credential, access_token is invalid or not latest, could get access_token by \
             getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"
        }
        (40001, _) => "invalid credential access_token isinvalid or not latest",
        (40002, _) => "invalid grant_type",
        (40013, _) => "invalid appid",
        (40014, _) => "invalid access_token",
        (40125, _) => "invalid appsecret",
        (40243, _) => "AppSecret已被冻结，请解冻后再次调用。",
        (41001, _) => "access_token missing",
        (41002, _) => "appid missing",
        (41004, _) => "appsecret missing",
        (42001, _) => "access_token expired",
        (43001, _) => "require GET method",
        (43002, _) => "require POST method",
        (44002, _) => "empty post data",
        (45009, _) => "reach max api daily quota limit",
        (45011, Endpoint::Stable) => "api minute-quota reach limit  mustslower  retry next minute",
        (45011, _) => "api minute-quota reach limit, must slower, retry next minute",
        (47001, _) => "data format error",
        (48001, _) => "api unauthorized,",
        (48004, _) => "api forbidden for irregularities, view detail on mp.weixin.qq.com",
        (50002, _) => "user limited",
        (50004, _) => "user not allow to use accesstoken, maybe for punishment",
        (50007, _) => "account is frozen",
        (61024, _) => "must use api(api_component_token) to get token for component acct",
        (89501, _) => "此IP正在等待管理员确认，请联系管理员",
        (89503, _) => "此次调用需要管理员确认，请耐心等候",
        (89506, _) => {
            "该IP调用求请求已被公众号管理员拒绝，请24小时后再试，建议调用前与管理员沟通确认"
        }
        (89507, _) => {
            "该IP调用求请求已被公众号管理员拒绝，请1小时后再试，建议调用前与管理员沟通确认"
        }
        _ => "some future error",
    }
}

/// A request's id: the time in hex and two random groups.
fn rid(at: Duration, dice: &mut Rng) -> String {
    format!(
        "{:08x}-{:08x}-{:08x}",
        at.as_secs(),
        dice.u32(..),
        dice.u32(..)
    )
}

/// A token as WeChat makes them today.
pub(super) fn token(dice: &mut Rng) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let length = dice.usize(133..=154);
    let characters = (0..length).map(|_| char::from(ALPHABET[dice.usize(..64)]));
    "98_".chars().chain(characters).collect()
}

/// A token, handed out.
pub(super) fn granted(value: &str, expires_in: u64) -> Reply {
    Reply::json(json!({ "access_token": value, "expires_in": expires_in }))
}

/// What a business call answers to a token that lives.
pub(super) fn business(path: &str) -> Reply {
    Reply::json(match path {
        "/cgi-bin/get_api_domain_ip" => r#"{"ip_list":["101.89.47.18","101.91.34.103"]}"#,
        "/cgi-bin/getcallbackip" => r#"{"ip_list":["106.55.206.146","106.55.206.211"]}"#,
        _ => {
            r#"{"total":2,"count":2,"data":{"openid":["oSandbox0000000000000000001","oSandbox0000000000000000002"]},"next_openid":"oSandbox0000000000000000002"}"#
        }
    })
}

/// What a gateway says for a back end that is away.
pub(super) fn bad_gateway() -> Reply {
    let page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n\
                <center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n";
    Reply {
        status: 502,
        content_type: "text/html".into(),
        body: page.into(),
        delay: Duration::ZERO,
        delivery: Delivery::Whole,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const AT: Duration = Duration::from_secs(0x6aac_005a);

    fn told(errcode: Errcode, endpoint: Endpoint, ip: &str) -> String {
        let ip = ip.parse().unwrap();
        let reply = refusal(errcode, endpoint, ip, AT, &mut Rng::with_seed(1));
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body["errcode"], errcode);
        body["errmsg"].as_str().unwrap().to_owned()
    }

    #[test]
    fn refusals_are_worded_as_observed() {
        use Endpoint::{Business, Classic, Stable};
        for (errcode, endpoint, text) in [
            (-1, Stable, "system error rid: 6aac005a-"),
            (40002, Classic, "invalid grant_type rid: 6aac005a-"),
            (40013, Classic, "invalid appid rid: 6aac005a-"),
            (40125, Stable, "invalid appsecret rid: 6aac005a-"),
            (41001, Business, "access_token missing rid: 6aac005a-"),
            (41002, Classic, "appid missing rid: 6aac005a-"),
            (42001, Business, "access_token expired rid: 6aac005a-"),
            (
                45009,
                Classic,
                "reach max api daily quota limit rid: 6aac005a-",
            ),
            (48001, Business, "api unauthorized, rid: 6aac005a-"),
            (
                40243,
                Classic,
                "AppSecret已被冻结，请解冻后再次调用。 rid: 6aac005a-",
            ),
            (
                89503,
                Stable,
                "此次调用需要管理员确认，请耐心等候 rid: 6aac005a-",
            ),
            (
                40001,
                Business,
                "invalid credential, access_token is invalid or not latest, could get access_token by getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r rid: 6aac005a-",
            ),
        ] {
            let told = told(errcode, endpoint, "192.0.2.1");
            assert!(told.starts_with(text), "{told}");
            assert_eq!(told.len(), text.len() + 8 + 1 + 8, "{told}");
        }
    }

    #[test]
    fn an_address_that_is_not_listed_is_named() {
        for (ip, text) in [
            (
                "203.0.113.9",
                "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: ",
            ),
            (
                "::ffff:203.0.113.9",
                "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: ",
            ),
            (
                "2001:db8::9",
                "invalid ip 0.0.0.0 ipv6 2001:db8::9, not in whitelist rid: ",
            ),
        ] {
            assert!(told(40164, Endpoint::Classic, ip).starts_with(text), "{ip}");
        }
    }

    #[test]
    fn tokens_look_like_wechats() {
        let dice = &mut Rng::with_seed(1);
        for _ in 0..100 {
            let token = token(dice);
            let (generation, rest) = token.split_once('_').unwrap();
            assert!(generation.parse::<u32>().is_ok());
            assert!((133..=154).contains(&rest.len()));
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            assert!(rest.chars().all(allowed));
        }
    }

    #[test]
    fn a_living_token_is_answered_without_errcode() {
        for path in [
            "/cgi-bin/get_api_domain_ip",
            "/cgi-bin/getcallbackip",
            "/cgi-bin/user/get",
        ] {
            let body: Value = serde_json::from_str(&business(path).body).unwrap();
            assert!(body.get("errcode").is_none());
        }
    }
}
