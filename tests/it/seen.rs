//! What clients of one server were handed, over all its restarts: generations never fall, and none
//! stands for two tokens.

use std::collections::BTreeMap;

use wxtokend::pb;

/// For each app the highest generation that anybody has seen, and the token that it is of.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<String, (u64, String)>);

impl Seen {
    /// `place` says where, if that is wrong.
    pub(crate) fn sees(&mut self, name: &str, token: &pb::Token, place: &str) {
        let (new, value) = (token.generation, token.access_token.clone());
        if let Some((highest, known)) = self.0.get(name) {
            assert!(new >= *highest, "{name}: {new} after {highest}, {place}");
            let same = new > *highest || value == *known;
            assert!(same, "{name}: two tokens are both {new}, {place}");
        }
        self.0.insert(name.to_owned(), (new, value));
    }
}
