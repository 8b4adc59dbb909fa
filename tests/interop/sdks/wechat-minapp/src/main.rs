//! wechat-minapp with tokens from wxtokend, with its stable token or, as `wechat-minapp-client normal`, its normal one: calls ten
//! times a second until stdin closes, then says how it went.

use std::{env, error::Error, io, sync::Arc, thread, time::Duration};

use http::Request;
use serde_json::Value;
use wechat_minapp::client::{
    MemoryTokenStorage, NonStableToken, ReqwestHttpClient, StableToken, WechatMinapp,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

// recipe begins
fn sdk() -> Result<WechatMinapp> {
    let (appid, key) = (env::var("WECHAT_APPID")?, env::var("WXTOKEND_KEY")?);
    let http = Arc::new(ReqwestHttpClient::new());
    let mut token = StableToken::new(&appid, &key, false, http.clone());
    token.end_point = format!("{}/cgi-bin/stable_token", env::var("WXTOKEND_HTTP")?);
    let storage = MemoryTokenStorage::new(Arc::new(token));
    Ok(WechatMinapp::custom(http, Arc::new(storage)))
}
// recipe ends

/// The same with the SDK's other kind of token.
fn sdk_with_normal_token() -> Result<WechatMinapp> {
    let (appid, key) = (env::var("WECHAT_APPID")?, env::var("WXTOKEND_KEY")?);
    let http = Arc::new(ReqwestHttpClient::new());
    let mut token = NonStableToken::new(&appid, &key, http.clone());
    token.end_point = format!("{}/cgi-bin/token", env::var("WXTOKEND_HTTP")?);
    let storage = MemoryTokenStorage::new(Arc::new(token));
    Ok(WechatMinapp::custom(http, Arc::new(storage)))
}

/// A harmless call. The addresses of the SDK's own ones are fixed.
async fn call(sdk: &WechatMinapp, wechat: &str) -> Result<()> {
    let url = format!(
        "{wechat}/cgi-bin/getcallbackip?access_token={}",
        sdk.token().await?
    );
    let reply = sdk
        .client
        .execute(Request::get(url).body(Vec::new())?)
        .await?;
    let reply: Value = serde_json::from_slice(reply.body())?;
    match reply.get("errcode") {
        Some(errcode) => Err(format!("WeChat says {errcode}").into()),
        None => Ok(()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let sdk = match env::args().nth(1).as_deref() {
        Some("normal") => sdk_with_normal_token()?,
        _ => sdk()?,
    };
    let wechat = env::var("WECHAT_URL")?;
    let stdin = thread::spawn(|| io::copy(&mut io::stdin(), &mut io::sink()));
    let (mut calls, mut failed) = (0, 0);
    while !stdin.is_finished() {
        calls += 1;
        failed += u32::from(call(&sdk, &wechat).await.is_err());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("calls {calls} failed {failed}");
    Ok(())
}
