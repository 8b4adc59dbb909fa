//! What WeChat's errcodes mean, by endpoint.
//!
//! Never by number alone: 40001 at the token endpoints is a wrong AppSecret, which a person must
//! cure; at every other endpoint it is a dead token, which a new one cures. Only the number decides.
//! The wording changes over the years, and several texts share a number.
//!
//! Each line names where it is known from: "seen" is a reply from the wire, the others are tables of
//! WeChat (`getAccessToken`, `getStableAccessToken`, "global" for the list of all return codes,
//! "store" for WeChat store, "guide" for the developers' guide) or of WeCom.

use std::time::Duration;

use crate::domain::{Remedy, Sight, blames_the_token, trouble::Refused};

/// What a refusal is about, and what to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Meaning {
    /// How to go on.
    pub(super) remedy: Remedy,
    /// Half a sentence, to follow "WeChat refused with errcode …:".
    pub(super) text: &'static str,
    /// One thing the operator can do.
    pub(super) hint: &'static str,
}

const WAIT: &str = "nothing to do unless it lasts for many minutes";
const SECRET: &str = "compare what `secret_file` or `secret_env` gives with the AppSecret in WeChat's console; a reset there voids the old one at once";
const APPID: &str = "compare `appid` with the console; an appid begins with `wx`";
const CONSOLE: &str = "look for a notice about this account in WeChat's console";
const ADMIN: &str =
    "ask the account's administrator to accept the message that WeChat sent to their phone";
const REPORT: &str = "this is a mistake of wxtokend: please report it with the errcode and the rid";

/// What `errcode` means where tokens are made: `/cgi-bin/token` and `/cgi-bin/stable_token`.
pub(super) fn at_token_endpoint(errcode: i64) -> Meaning {
    passing(errcode)
        .or_else(|| by_person(errcode))
        .or_else(|| credential(errcode))
        .or_else(|| account(errcode))
        .or_else(|| request(errcode))
        .unwrap_or(Meaning {
            remedy: Remedy::Slowly,
            text: "wxtokend does not know this errcode",
            hint: "look the errcode up in WeChat's list of return codes, and report it",
        })
}

/// What `errcode` says about the token that was looked at.
pub(super) fn at_look(errcode: i64) -> Sight {
    match errcode {
        0 => Sight::Alive,
        -1 => Sight::Busy, // global, seen
        errcode if blames_the_token(errcode) => Sight::Refused,
        errcode => Sight::NoVerdict { errcode },
    }
}

/// It goes away by itself.
fn passing(errcode: i64) -> Option<Meaning> {
    let (remedy, text, hint) = match errcode {
        -1 => (Remedy::BackOff, "its system is busy", WAIT), // global, seen
        // getStableAccessToken, seen · WeCom, for too many at a time
        45011 | 45033 => (
            Remedy::NextMinute,
            "the minute's quota is used up",
            "look for a second program that fetches tokens for this app, if it comes back",
        ),
        // Seen: 2,000 fetches a day in classic mode, 20 forced ones in stable mode.
        45009 => (
            Remedy::DayQuota,
            "the day's quota is used up",
            "look for a second program that fetches tokens for this app; the quota returns at midnight in Beijing, or after a `clear_quota/v2` call (10 a month)",
        ),
        _ => return None,
    };
    Some(Meaning { remedy, text, hint })
}

/// Somebody must let this server in.
fn by_person(errcode: i64) -> Option<Meaning> {
    let hours = |n: u64| Remedy::RiskRejected(Duration::from_hours(n));
    let (remedy, text, hint) = match errcode {
        // seen (all accounts) · guide, third-party platforms · store · WeCom
        40164 | 61004 | 45035 | 60020 => (
            Remedy::IpList,
            "this server's address is not on the app's IP list",
            "add this server's public address to the app's API IP list (IP白名单) in WeChat's console; a change takes up to 10 minutes",
        ),
        // getAccessToken, getStableAccessToken · 89502, 89504, 89505: the table in WxJava
        89501..=89505 => (
            Remedy::RiskPending,
            "the account's administrator has to confirm this server first",
            ADMIN,
        ),
        89507 => (
            hours(1), // getAccessToken, getStableAccessToken
            "the account's administrator has rejected this server, for one hour",
            "talk to the account's administrator before the hour is over: a second rejection lasts 24 hours",
        ),
        89506 => (
            hours(24), // getAccessToken, getStableAccessToken, seen
            "the account's administrator has rejected this server twice, for 24 hours",
            "talk to the account's administrator, or let wxtokend use another public address",
        ),
        _ => return None,
    };
    Some(Meaning { remedy, text, hint })
}

/// The appid and the AppSecret do not fit.
fn credential(errcode: i64) -> Option<Meaning> {
    let (text, hint) = match errcode {
        // getAccessToken, WeCom · seen
        40001 | 40125 => ("the AppSecret is wrong", SECRET),
        40091 => ("the AppSecret belongs to somebody else", SECRET), // WeCom
        40013 => ("the appid does not exist", APPID),                // seen
        40243 => (
            "the AppSecret is frozen", // getAccessToken, seen
            "unfreeze the AppSecret in WeChat's console; it takes up to 10 minutes",
        ),
        _ => return None,
    };
    Some(Meaning {
        remedy: Remedy::Refused(Refused::Credential),
        text,
        hint,
    })
}

/// The account may not have tokens.
fn account(errcode: i64) -> Option<Meaning> {
    let text = match errcode {
        48001 => "the account has no right to this interface", // global, seen
        48004 => "the interface is banned for irregularities", // global, seen
        50002 => "the account is limited",                     // global
        50004 => "the account may not use access tokens, maybe as a punishment", // global, seen
        50007 => "the account is frozen",                      // getAccessToken
        _ => return None,
    };
    Some(Meaning {
        remedy: Remedy::Refused(Refused::Account),
        text,
        hint: CONSOLE,
    })
}

/// The request is not what WeChat expects.
fn request(errcode: i64) -> Option<Meaning> {
    let (text, hint) = match errcode {
        40002 => ("`grant_type` is wrong", REPORT), // seen
        41002 => ("the appid is missing", REPORT),  // seen
        // Seen. Most often an empty secret.
        41004 => (
            "the AppSecret is missing",
            "check that `secret_file` or `secret_env` is not empty; if it is not, please report this",
        ),
        43002 | 43003 => ("the method or scheme is wrong", REPORT), // getStableAccessToken, global
        44002 => ("the body is empty", REPORT),                     // store, seen
        47001 => ("the body is not JSON", REPORT),                  // store, seen
        // The table in WxJava, seen.
        61024 => (
            "the appid is a third-party platform's, which gets its tokens elsewhere",
            "configure the appid of an official account or a mini program; if it is one, please report this",
        ),
        _ => return None,
    };
    Some(Meaning {
        remedy: Remedy::Refused(Refused::Request),
        text,
        hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIAL: Remedy = Remedy::Refused(Refused::Credential);
    const ACCOUNT: Remedy = Remedy::Refused(Refused::Account);
    const REQUEST: Remedy = Remedy::Refused(Refused::Request);

    #[test]
    fn every_errcode_has_the_class_of_the_table() {
        let table: [(Remedy, &[i64]); 11] = [
            (Remedy::BackOff, &[-1]),
            (Remedy::NextMinute, &[45011, 45033]),
            (Remedy::DayQuota, &[45009]),
            (Remedy::IpList, &[40164, 61004, 45035, 60020]),
            (Remedy::RiskPending, &[89501, 89502, 89503, 89504, 89505]),
            (Remedy::RiskRejected(Duration::from_hours(1)), &[89507]),
            (Remedy::RiskRejected(Duration::from_hours(24)), &[89506]),
            (CREDENTIAL, &[40001, 40013, 40125, 40243, 40091]),
            (ACCOUNT, &[48001, 48004, 50002, 50004, 50007]),
            (
                REQUEST,
                &[40002, 41002, 41004, 43002, 43003, 44002, 47001, 61024],
            ),
            (Remedy::Slowly, &[99999, -2, 40014, 42001, 89500, 89508]),
        ];
        for (remedy, errcodes) in table {
            for &errcode in errcodes {
                assert_eq!(at_token_endpoint(errcode).remedy, remedy, "{errcode}");
            }
        }
    }

    #[test]
    fn one_number_means_different_things_at_different_endpoints() {
        assert_eq!(at_token_endpoint(40001).remedy, CREDENTIAL);
        assert_eq!(at_look(40001), Sight::Refused);
    }

    #[test]
    fn only_three_errcodes_of_a_look_blame_the_token() {
        let other = |errcode| Sight::NoVerdict { errcode };
        let table = [
            (0, Sight::Alive),
            (-1, Sight::Busy),
            (40001, Sight::Refused),
            (40014, Sight::Refused),
            (42001, Sight::Refused),
            (41001, other(41001)),
            (40164, other(40164)),
            (45009, other(45009)),
            (48001, other(48001)),
        ];
        for (errcode, sight) in table {
            assert_eq!(at_look(errcode), sight, "{errcode}");
        }
    }
}
