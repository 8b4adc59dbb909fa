//! Addresses: where to listen and whom to call.
//!
//! They are checked here so that a slip is found by `wxtokend check` and not by the first refresh.
//! The messages never quote a URL: people put credentials into them.

use std::{net::Ipv6Addr, path::PathBuf};

use http::Uri;

use super::{
    Listen,
    tree::Value,
    values::{Outcome, text},
};

/// What a password in a URL is told.
const NO_SECRETS: &str = "must have no user or password: secrets never stand in the configuration";

/// The longest path that fits into a unix socket's address on every system.
const LONGEST_SOCKET: usize = 103;

/// `host:port` or `unix:/path`.
pub(super) fn listen(value: &Value) -> Outcome<Listen> {
    let written = text(value)?;
    match written.strip_prefix("unix:") {
        Some(path) => unix(path),
        None => tcp(written),
    }
}

fn unix(path: &str) -> Outcome<Listen> {
    // `unix:///path` is how clients write it.
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.ends_with('/') {
        return Err("must name a file after `unix:`".into());
    }
    if path.len() > LONGEST_SOCKET {
        return Err(format!(
            "is too long for a unix socket: at most {LONGEST_SOCKET} bytes"
        ));
    }
    Ok(Listen::Unix(PathBuf::from(path)))
}

fn tcp(written: String) -> Outcome<Listen> {
    let shape = "must be `host:port` or `unix:/path`";
    let (host, port) = written.rsplit_once(':').ok_or(shape)?;
    if host.is_empty() {
        return Err(format!(
            "needs a host: `0.0.0.0:{port}` listens on every address"
        ));
    }
    if port.parse::<u16>().is_err() {
        return Err("needs a port from 0 to 65535 after the last `:`".into());
    }
    if host.contains(':') && bracketed(host).is_none() {
        return Err("must have its IPv6 address in brackets, like `[::1]:50051`".into());
    }
    let clean = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if !host.bytes().all(clean) {
        return Err(shape.into());
    }
    Ok(Listen::Tcp(written))
}

fn bracketed(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// A server of WeChat, or a stand-in: `https://host[:port][/prefix]`, kept without a slash at its end.
pub(super) fn base_url(value: &Value) -> Outcome<String> {
    let written = text(value)?;
    let uri = url(&written, &["http", "https"])?;
    let path = uri.path().trim_end_matches('/');
    if path.contains("/cgi-bin") {
        return Err("must end before `/cgi-bin`".into());
    }
    if path.contains("//") || path.split('/').any(|part| part == "." || part == "..") {
        return Err("must have a plain path or none".into());
    }
    Ok(written.trim_end_matches('/').to_owned())
}

/// A server of ours: `http://host:port` or `unix:///path`.
pub(super) fn server(value: &Value) -> Outcome<String> {
    let written = text(value)?;
    if let Some(path) = written.strip_prefix("unix://") {
        unix(path)?;
        return Ok(written);
    }
    let uri = url(&written, &["http"])?;
    if uri.path() != "/" || uri.query().is_some() {
        return Err("must be `http://host:port` without a path".into());
    }
    let authority = uri.authority().filter(|a| a.port_u16().is_some());
    let authority = authority.ok_or("needs a port: `http://host:50051`")?;
    // As everybody writes it, so that it can be told from a socket.
    Ok(format!("http://{authority}"))
}

/// One or several `host:port` behind a scheme, and a path.
pub(super) fn store_urls(value: &Value, schemes: &[&str]) -> Outcome<String> {
    let written = text(value)?;
    let (scheme, rest) = written.split_once("://").unwrap_or(("", ""));
    let several = scheme.contains('-');
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !several || !schemes.contains(&scheme) {
        url(&written, schemes)?;
    }
    if hosts.contains('@') {
        return Err(NO_SECRETS.into());
    }
    for host in hosts.split(',') {
        tcp(host.to_owned()).map_err(|_| {
            let more = if several { ",host:port" } else { "" };
            format!("must be `{scheme}://host:port{more}`")
        })?;
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !path.bytes().all(plain) {
        return Err("must end after one name or number".into());
    }
    match scheme {
        "redis-sentinel" | "rediss-sentinel" if path.is_empty() => {
            Err("needs the name of the master after a `/`".into())
        }
        "redis" | "rediss" if !path.is_empty() && path.parse::<u32>().is_err() => {
            Err("must end after the number of a database".into())
        }
        "http" | "https" | "redis-cluster" | "rediss-cluster" if !path.is_empty() => {
            Err("must have no path".into())
        }
        _ => Ok(written),
    }
}

/// A proxy: `http://host:port`.
pub(super) fn proxy(value: &Value) -> Outcome<String> {
    let written = text(value)?;
    let uri = url(&written, &["http"])?;
    if uri.path() != "/" {
        return Err("must have no path".into());
    }
    Ok(written.trim_end_matches('/').to_owned())
}

fn url(written: &str, schemes: &[&str]) -> Outcome<Uri> {
    let must = || {
        let starts: Vec<String> = schemes.iter().map(|s| format!("`{s}://`")).collect();
        format!("must be a URL that starts with {}", starts.join(" or "))
    };
    // `Uri` drops a fragment silently.
    if written.contains('#') {
        return Err("must have no `#`".into());
    }
    let uri: Uri = written.parse().map_err(|_| must())?;
    if !uri.scheme_str().is_some_and(|s| schemes.contains(&s)) {
        return Err(must());
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(NO_SECRETS.into());
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err("must have a host".into());
    }
    // What follows the host is `:port`, and `Uri` takes any digits for one.
    let after_host = authority.len() - uri.host().map_or(0, str::len);
    if after_host > 0 && uri.port_u16().is_none_or(|port| port == 0) {
        return Err("must have a port from 1 to 65535, or none".into());
    }
    if uri.query().is_some() {
        return Err("must have no query".into());
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn listening_addresses_are_taken_in_these_forms_only() {
        let tcp = |text: &str| Some(Listen::Tcp(text.into()));
        let unix = |text: &str| Some(Listen::Unix(text.into()));
        let long = format!("unix:/{}", "x".repeat(LONGEST_SOCKET));
        let table = [
            ("127.0.0.1:0", tcp("127.0.0.1:0")),
            ("localhost:50051", tcp("localhost:50051")),
            ("[::1]:50051", tcp("[::1]:50051")),
            ("unix:/run/grpc.sock", unix("/run/grpc.sock")),
            ("unix:///run/grpc.sock", unix("/run/grpc.sock")),
            ("unix:grpc.sock", unix("grpc.sock")),
            (&long, None),
            ("unix:", None),
            ("unix:/run/", None),
            ("::1:50051", None),
            (":50051", None),
            ("localhost", None),
            ("localhost:65536", None),
            ("local host:1", None),
            ("http://localhost:1", None),
        ];
        for (text, expected) in table {
            assert_eq!(listen(&written(text)).ok(), expected, "{text}");
        }
    }

    #[test]
    fn base_urls_are_servers_and_not_requests() {
        let table = [
            (
                "https://api.weixin.qq.com",
                Some("https://api.weixin.qq.com"),
            ),
            (
                "https://api.weixin.qq.com/",
                Some("https://api.weixin.qq.com"),
            ),
            (
                "http://127.0.0.1:8080/wx/",
                Some("http://127.0.0.1:8080/wx"),
            ),
            ("http://[::1]:8080", Some("http://[::1]:8080")),
            ("https://api.weixin.qq.com/cgi-bin/token", None),
            ("https://api.weixin.qq.com?appid=1", None),
            ("https://api.weixin.qq.com/#top", None),
            ("https://user:word@api.weixin.qq.com", None),
            ("https://host:0", None),
            ("https://host:99999", None),
            ("https://host:", None),
            ("https://host/a//b", None),
            ("https://host/../b", None),
            ("https:///path", None),
            ("ftp://host", None),
            ("api.weixin.qq.com", None),
            ("/path", None),
            ("https://a b", None),
        ];
        for (text, expected) in table {
            let url = base_url(&written(text));
            assert_eq!(url.ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_proxy_is_a_plain_http_server() {
        for (text, good) in [
            ("http://proxy:3128", true),
            ("http://proxy:3128/", true),
            ("https://proxy:3128", false),
            ("http://proxy:3128/path", false),
            ("http://user:word@proxy:3128", false),
            ("proxy:3128", false),
        ] {
            assert_eq!(proxy(&written(text)).is_ok(), good, "{text}");
        }
    }
}
