//! A token in words: for files, and for the environment of programs.

use std::time::SystemTime;

use serde_json::json;

use crate::{config::Format, domain::AppName, tokens::Issued};

/// What `format` makes of a token.
pub(super) fn of(format: &Format, app: &AppName, issued: &Issued) -> String {
    match format {
        Format::Token => issued.token.value.expose().to_owned(),
        Format::Json => of_json(app, issued),
        Format::Template(template) => filled(template, app, issued),
    }
}

/// Puts the values into the holes of a template, which the configuration has checked.
fn filled(template: &str, app: &AppName, issued: &Issued) -> String {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (word, rest) = part.split_once("}}").unwrap_or((part, ""));
        text += &value(word.trim(), app, issued);
        text += rest;
    }
    text
}

fn value(word: &str, app: &AppName, issued: &Issued) -> String {
    let token = &issued.token;
    match word {
        "access_token" => token.value.expose().to_owned(),
        "app_id" => app.to_string(),
        "generation" => token.generation.0.to_string(),
        "expire_time" => time(token.expire_time),
        "time_to_live" => issued.time_to_live.as_secs().to_string(),
        _ => String::new(),
    }
}

/// What a program that is run finds in its environment.
pub(super) fn environment(app: &AppName, issued: &Issued) -> [(&'static str, String); 4] {
    [
        ("WXTOKEND_APP", "app_id"),
        ("WXTOKEND_ACCESS_TOKEN", "access_token"),
        ("WXTOKEND_GENERATION", "generation"),
        ("WXTOKEND_EXPIRE_TIME", "expire_time"),
    ]
    .map(|(name, word)| (name, value(word, app, issued)))
}

/// With the contract's names: numbers are numbers, times RFC 3339, spans seconds.
fn of_json(app: &AppName, issued: &Issued) -> String {
    let token = &issued.token;
    let json = json!({
        "app_id": app.as_str(),
        "access_token": token.value.expose(),
        "generation": token.generation.0,
        "issue_time": time(token.issue_time),
        "expire_time": time(token.expire_time),
    });
    format!("{json}\n")
}

/// As RFC 3339 has it.
fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
