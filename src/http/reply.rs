//! JSON that nobody keeps: there is a token in it, or a word that holds for this moment.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// `content` as JSON.
pub(super) fn json(status: StatusCode, content: &impl Serialize) -> Response {
    let text = serde_json::to_string(content).expect("strings and numbers");
    let mut response = (status, text).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
