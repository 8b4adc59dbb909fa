//! What the tests of the model have in common.

use std::time::Duration;

use serde_json::Value;

use super::{Call, Credentials, Fault, Knobs, Model, Pool, Reply, Settings};

pub(super) const START: Duration = Duration::from_hours(499_984); // midnight in Beijing

pub(super) fn at(second: u64) -> Duration {
    START + Duration::from_secs(second)
}

pub(super) fn model() -> Model {
    Model::new(Settings::default(), 1)
}

pub(super) fn classic() -> Call {
    Call::classic(&Credentials::default())
}

pub(super) fn appid() -> String {
    Credentials::default().appid
}

pub(super) fn json(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap()
}

pub(super) fn errcode(reply: &Reply) -> Option<i64> {
    json(reply)["errcode"].as_i64()
}

pub(super) fn fetch(model: &mut Model, second: u64, call: &Call) -> String {
    let reply = model.handle(at(second), call);
    json(&reply)["access_token"].as_str().unwrap().to_owned()
}

pub(super) fn newest(model: &Model, pool: Pool) -> String {
    let account = model.account(&appid()).unwrap();
    account.mints(pool).next_back().unwrap().value.clone()
}

pub(super) fn faulty(fault: Fault) -> Model {
    let mut model = model();
    let knobs = Knobs {
        faults: vec![fault],
        ..Knobs::default()
    };
    model.turn(START, &knobs).unwrap();
    model
}
