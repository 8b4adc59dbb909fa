//! Every input in `fuzz/corpus`, held against the promises that the fuzzers try to break. What a fuzzer
//! has found is an input there, so it stays found without one.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use wxtokend::{domain::Record, store::write_state};

#[path = "../../fuzz/properties/mod.rs"]
mod properties;

use properties::{config, http, record, reply, request, state};

/// What the whole corpus may weigh in bytes: it is cloned by everybody.
const HEAVIEST: u64 = 1024 * 1024;

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let files = fs::read_dir(folder.join(target)).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(target: &str, holds: fn(&[u8])) {
    let files = corpus(target);
    assert!(files.len() >= 20, "{} files of `{target}`", files.len());
    for file in files {
        let input = fs::read(&file).unwrap();
        let held = catch_unwind(|| holds(&input));
        assert!(held.is_ok(), "with {}", file.display());
    }
}

#[test]
fn no_reply_of_the_corpus_is_believed_or_repeated_beyond_what_it_deserves() {
    replay("reply", reply::holds);
}

#[test]
fn no_state_file_of_the_corpus_prolongs_a_life() {
    replay("state", state::holds);
}

#[test]
fn every_record_of_the_corpus_can_be_gone_on_with() {
    replay("record", record::holds);
}

#[test]
fn no_configuration_of_the_corpus_is_accepted_or_refused_without_reason() {
    replay("config", config::holds);
}

#[test]
fn no_program_of_the_corpus_gets_what_is_not_due_over_http() {
    replay("http", http::holds);
}

#[test]
fn no_request_of_the_corpus_gets_what_is_not_due() {
    replay("request", request::holds);
}

#[test]
fn the_corpus_is_small() {
    let targets = ["config", "http", "record", "reply", "request", "state"];
    let files = targets.into_iter().flat_map(corpus);
    let weight: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(weight < HEAVIEST, "{weight} bytes");
}

/// Else the fuzzer would get no further than to the checksum.
#[test]
fn the_fuzzer_can_give_a_changed_state_file_the_checksum_it_needs() {
    let now = state::at(3_600_000, 1_795_359_600_000);
    let record = Record::new(wxtokend::domain::Mode::Classic);
    let text = write_state(state::APPID, &record, now, state::BOOT);
    let changed = text.replace("\"streak\": 0", "\"streak\": 7");
    assert_ne!(changed, *text);
    let read =
        |text: &str| wxtokend::store::read_state(state::APPID, text.as_bytes(), now, state::BOOT);
    assert!(read(&changed).is_err());
    let sealed = state::sealed(&changed).unwrap();
    assert_eq!(read(&sealed).unwrap().ledger.streak, 7);
}
