//! Hearing of changes. Each watch goes on where the last one ended; one that is told that this has been
//! compacted begins after what a list shows.

use std::sync::atomic::Ordering;

use etcd_client::{Error, WatchOptions};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Etcd,
    members::{CALL, Failure},
};

impl Etcd {
    pub(super) async fn watch_until_it_ends(
        &self,
        changed: &mpsc::Sender<String>,
    ) -> Result<(), Failure> {
        let mut moved = self.members.moved.subscribe();
        // The first one begins where the first list ended.
        let from = loop {
            match self.next.load(Ordering::SeqCst) {
                0 => sleep(CALL / 10).await,
                next => break next,
            }
        };
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let begin = async {
            let mut client = self.members.client().await?;
            let watch = client.watch(self.prefix.as_str(), Some(options)).await;
            watch.map_err(Failure::Etcd)
        };
        let mut watch = timeout(CALL, begin).await.map_err(|_| Failure::Silent)??;
        loop {
            let told = tokio::select! {
                told = watch.message() => told?,
                // Calls have found that this member does not answer.
                _ = moved.changed() => return Err(Failure::Moved),
            };
            let Some(told) = told else { return Ok(()) };
            if told.canceled() {
                // What is needed has been compacted: a list finds it, and the next watch begins after it.
                if told.compact_revision() > 0 {
                    self.next.store(0, Ordering::SeqCst);
                }
                let reason = told.cancel_reason().to_owned();
                return Err(Error::WatchError(reason).into());
            }
            let mut appids: Vec<&str> = told
                .events()
                .iter()
                .filter_map(|event| Some(self.parts(event.kv()?.key())?.0))
                .collect();
            appids.dedup();
            for appid in appids {
                if changed.send(appid.to_owned()).await.is_err() {
                    return Ok(());
                }
            }
            if let Some(header) = told.header() {
                self.next.store(header.revision() + 1, Ordering::SeqCst);
            }
        }
    }
}
