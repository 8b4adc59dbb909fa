//! What SDKs send when they want a token: parameters in the query, in a JSON object or in a form, in any
//! mixture, with whatever else they like, and often without saying which.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, header::AUTHORIZATION},
};
use serde_json::Value;
use tokio::time::timeout;

use super::refusal::Refusal;
use crate::domain::Secret;

/// The longest body. WeChat's own parameters have some hundred bytes.
const MOST: usize = 64 * 1024;

/// From the headers to the last byte of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// The parameters of a request.
#[derive(Debug, Default)]
pub(super) struct Ask {
    pub(super) grant_type: String,
    pub(super) appid: String,
    /// Of the consumer, from wherever it put it.
    pub(super) key: Option<Secret>,
    pub(super) force_refresh: bool,
}

impl Ask {
    /// All of them. The body counts for more than the query, and a key in the headers for more than one
    /// among the parameters.
    pub(super) async fn read(request: Request) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        let mut ask = Self::default();
        ask.take_form(head.uri.query().unwrap_or_default().as_bytes());
        let body = whole(body).await?;
        match body.trim_ascii() {
            object @ [b'{' | b'[', ..] => ask.take_json(object)?,
            form => ask.take_form(form),
        }
        if let Some(key) = bearer(&head.headers) {
            ask.key = Some(key);
        }
        Ok(ask)
    }

    fn take_form(&mut self, form: &[u8]) {
        for (name, value) in form_urlencoded::parse(form) {
            self.take(&name, &value);
        }
    }

    fn take_json(&mut self, text: &[u8]) -> Result<(), Refusal> {
        let value: Value = serde_json::from_slice(text).map_err(|_| Refusal::not_json())?;
        let object = value.as_object().ok_or_else(Refusal::not_json)?;
        for (name, value) in object {
            match value {
                Value::String(text) => self.take(name, text),
                Value::Null => {}
                other => self.take(name, &other.to_string()),
            }
        }
        Ok(())
    }

    fn take(&mut self, name: &str, value: &str) {
        match name {
            "grant_type" => value.clone_into(&mut self.grant_type),
            "appid" => value.clone_into(&mut self.appid),
            "secret" if !value.is_empty() => self.key = Some(Secret::new(value)),
            "force_refresh" => self.force_refresh = is_true(value),
            _ => {}
        }
    }
}

fn is_true(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

async fn whole(body: Body) -> Result<bytes::Bytes, Refusal> {
    let body = timeout(PATIENCE, to_bytes(body, MOST)).await;
    let body = body.map_err(|_| Refusal::never_arrived())?;
    body.map_err(|_| Refusal::never_arrived())
}

/// The key that follows `Bearer`, if there is one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    is_bearer.then(|| Secret::new(key.trim_start()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::StreamBody;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_is_awaited_for_ten_seconds() {
        let never = tokio_stream::pending::<Result<http_body::Frame<bytes::Bytes>, Infallible>>();
        let request = Request::new(Body::new(StreamBody::new(never)));
        let start = Instant::now();
        assert_eq!(Ask::read(request).await.unwrap_err().errcode(), 47001);
        assert_eq!(start.elapsed(), PATIENCE);
    }

    async fn read(query: &str, body: &str, authorization: Option<&str>) -> Option<String> {
        let mut request = Request::builder().uri(format!("/cgi-bin/token{query}"));
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let ask = Ask::read(request).await.ok()?;
        let key = ask.key.as_ref().map_or("-", Secret::expose);
        let Ask {
            grant_type,
            appid,
            force_refresh,
            ..
        } = &ask;
        Some(format!("{grant_type} {appid} {key} {force_refresh}"))
    }

    #[tokio::test]
    async fn parameters_are_found_wherever_they_are() {
        let query = "?grant_type=client_credential&appid=wx1&secret=k%2B1&neededText=";
        let json = r#"{"grant_type":"client_credential","appid":"wx1","secret":"k+1","x":[{}]}"#;
        let form = "grant_type=client_credential&appid=wx1&secret=k%2B1";
        let same = Some("client_credential wx1 k+1 false");
        // (query, body, authorization, what is read)
        let table = [
            (query, "", None, same),
            ("", json, None, same),
            ("", &format!("\n {json} \n"), None, same),
            ("", form, None, same),
            ("?appid=other&secret=no", json, None, same),
            (
                "?grant_type=client_credential&appid=wx1",
                "",
                Some("Bearer k+1"),
                same,
            ),
            (
                query,
                "",
                Some("bearer  key"),
                Some("client_credential wx1 key false"),
            ),
            (query, "", Some("Basic key"), same),
            ("", r#"{"force_refresh":true}"#, None, Some("  - true")),
            ("", r#"{"force_refresh":"TRUE"}"#, None, Some("  - true")),
            ("", r#"{"force_refresh":1}"#, None, Some("  - true")),
            ("?force_refresh=true", "", None, Some("  - true")),
            ("", r#"{"force_refresh":false}"#, None, Some("  - false")),
            ("", r#"{"appid":7,"secret":null}"#, None, Some(" 7 - false")),
            ("?secret=", "", None, Some("  - false")),
            ("", "nonsense", None, Some("  - false")),
            ("", r#"{"appid":"#, None, None),
            ("", "[1]", None, None),
            ("", &"[".repeat(10_000), None, None),
            ("", &" ".repeat(MOST + 1), None, None),
        ];
        for (query, body, authorization, expected) in table {
            let found = read(query, body, authorization).await;
            assert_eq!(
                found.as_deref(),
                expected,
                "{query} {body:.80} {authorization:?}"
            );
        }
    }
}
