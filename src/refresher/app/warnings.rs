//! One warning for each change of trouble, one line for its end, and nothing in between.

use std::{error::Error, sync::Arc};

use tracing::{debug, info, warn};

use super::App;
use crate::{
    domain::{Sight, Trouble},
    store::StoreError,
};

impl App {
    /// One warning for each change of trouble; the same again is for the curious.
    pub(super) fn warn_about_a_new_trouble(&mut self) {
        let trouble = self.slot.trouble().cloned();
        let same = |a: &Trouble, b: &Trouble| (a.remedy, a.errcode) == (b.remedy, b.errcode);
        match (&self.trouble, &trouble) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => return,
            (Some(old), Some(new)) if same(old, new) => {
                debug!(app = %self.name, errcode = new.errcode, "still: {}", new.message);
            }
            (_, Some(new)) => {
                let hint = new.hint.as_deref().unwrap_or_default();
                warn!(app = %self.name, errcode = new.errcode, hint, "no new token: {}", new.message);
            }
            (Some(_), None) => info!(app = %self.name, "WeChat gives tokens again"),
            (None, None) => {}
        }
        self.trouble = trouble;
    }

    pub(super) fn warn_about_a_new_blur(&mut self, sight: Sight) {
        let blur = match sight {
            Sight::NoVerdict { errcode } => Some(errcode),
            Sight::Alive | Sight::Refused => None,
            Sight::Busy | Sight::Unreachable => return,
        };
        if blur.is_some() && blur != self.blur {
            warn!(app = %self.name, errcode = blur, "WeChat does not let us look whether the token works");
        }
        self.blur = blur;
    }

    pub(super) fn warn_about_the_store(&mut self, error: StoreError) {
        let warned = self.saving.warned.as_ref();
        if !warned.is_some_and(|warned| warned.is_like(&error)) {
            warn!(app = %self.name, error = &error as &dyn Error, "the token cannot be saved; it is served from memory and saved later");
            self.saving.warned = Some(error);
        }
    }
}
