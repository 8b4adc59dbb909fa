//! A store that ends with the process: for tests, the sandbox, and whoever wants nothing on disk.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;

use crate::domain::Record;

use super::{Store, StoreError};

/// Records by appid.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<BTreeMap<String, Record>>);

#[async_trait]
impl Store for Memory {
    async fn load(&self, appid: &str) -> Result<Option<Record>, StoreError> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(records.get(appid).cloned())
    }

    async fn save(&self, appid: &str, record: &Record) -> Result<(), StoreError> {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.insert(appid.to_owned(), record.clone());
        Ok(())
    }
}
