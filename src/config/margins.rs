//! How long before the end of a token's life the SDKs of this world drop it.
//!
//! An SDK subtracts its margin from the life that it is told, so a server that knows the SDK adds it
//! again. The figures were read in the SDKs' sources. Where an SDK's margin varies, the least is
//! taken that it uses for a life of a few minutes: too little makes it ask more often, while too much
//! would let it keep a dead token.

use std::time::Duration;

use super::{
    tree::Value,
    values::{Outcome, text},
};

/// SDKs, in the spelling that is told, and their margins in seconds.
const MARGINS: [(&str, u64); 20] = [
    ("chanxuehong", 10), // 600, 300, 60 or 10 by the life
    ("co-wechat-api", 10),
    ("easywechat", 0),
    ("eric-guo-wechat", 30), // 30 to 180 at random
    ("fastwego", 0),
    ("node-easywechat", 0),
    ("powerwechat", 0),
    ("senparc", 0), // 600, 300 or 30 by the life, nothing up to 300
    ("silenceper", 1500),
    ("silenceper-stable", 300),
    ("wechat-api", 10),
    ("wechat-minapp", 300),
    ("wechat-mp-sdk", 300), // its default
    ("wechat-oa-sdk", 300),
    ("wechatpy", 60),
    ("weixin4j", 60),
    ("werobot", 60),
    ("wxjava", 200), // in memory
    ("wxjava-miniapp-redis", 200),
    ("wxjava-mp-redis", 0),
];

/// The margin of an SDK; its name may be written in capitals, as most of them do themselves.
pub(super) fn of_sdk(value: &Value) -> Outcome<Duration> {
    let written = text(value)?.to_lowercase();
    let found = MARGINS.iter().find(|(sdk, _)| *sdk == written);
    found
        .map(|(_, margin)| Duration::from_secs(*margin))
        .ok_or_else(|| {
            let known: Vec<String> = MARGINS.iter().map(|(sdk, _)| format!("`{sdk}`")).collect();
            format!(
                "must be one of {}; for another SDK set `margin`",
                known.join(", ")
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdks_are_known_in_capitals_too_and_strangers_are_told_the_list() {
        let of = |sdk: &str| of_sdk(&Value::Text(sdk.into()));
        assert_eq!(of("wechatpy"), Ok(Duration::from_mins(1)));
        assert_eq!(of("WxJava"), Ok(Duration::from_secs(200)));
        let told = of("homemade").unwrap_err();
        assert!(told.starts_with("must be one of `chanxuehong`, "), "{told}");
        assert!(
            told.ends_with("`wxjava-mp-redis`; for another SDK set `margin`"),
            "{told}"
        );
    }
}
