//! The frames that tell a token to its readers.
//!
//! A rotation is told to ten thousand readers within a moment, and to all in the same words. So each
//! thread keeps the frame that it made last, and hands it out again as long as nothing in it changes:
//! lives are told in whole milliseconds.

use std::{cell::RefCell, sync::Arc};

use bytes::Bytes;

use super::{frame, wire};
use crate::{
    pb::{Cause, WatchTokenResponse},
    tokens::Issued,
};

thread_local! {
    static LAST: RefCell<Option<Printed>> = const { RefCell::new(None) };
}

/// A frame, and what it says.
struct Printed {
    app_id: Box<str>,
    issued: Issued,
    cause: Cause,
    frame: Bytes,
}

/// What tells `issued` to a reader that asked for `app_id`, and why.
pub(super) fn frame(app_id: &str, issued: &Issued, cause: Cause) -> Bytes {
    LAST.with_borrow_mut(|last| {
        if let Some(last) = last
            .as_ref()
            .filter(|last| last.says(app_id, issued, cause))
        {
            return last.frame.clone();
        }
        let printed = Printed::new(app_id, issued.clone(), cause);
        last.insert(printed).frame.clone()
    })
}

impl Printed {
    fn new(app_id: &str, issued: Issued, cause: Cause) -> Self {
        let message = WatchTokenResponse {
            token: Some(wire::token(app_id.to_owned(), &issued)),
            cause: cause.into(),
        };
        Self {
            app_id: app_id.into(),
            issued,
            cause,
            frame: frame::of(&message),
        }
    }

    fn says(&self, app_id: &str, issued: &Issued, cause: Cause) -> bool {
        let told = &self.issued;
        Arc::ptr_eq(&told.token, &issued.token)
            && self.cause == cause
            && wire::span(told.time_to_live) == wire::span(issued.time_to_live)
            && wire::span(told.keep_for) == wire::span(issued.keep_for)
            && told.previous_expire_time.map(wire::time)
                == issued.previous_expire_time.map(wire::time)
            && *self.app_id == *app_id
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use prost::Message;

    use super::*;
    use crate::domain::{Generation, Moment, Secret, Token};

    const NANOSECOND: Duration = Duration::from_nanos(1);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn issued() -> Issued {
        let token = Token {
            value: Secret::new("token"),
            generation: Generation(7),
            asked_at: Moment::default(),
            expires_at: Moment::default() + Duration::from_hours(2),
            issue_time: SystemTime::UNIX_EPOCH,
            expire_time: SystemTime::UNIX_EPOCH + Duration::from_hours(2),
        };
        Issued {
            token: Arc::new(token),
            time_to_live: Duration::from_micros(7_200_000_900),
            keep_for: Duration::from_micros(3_600_000_900),
            published_at: Moment::default(),
            previous_expire_time: Some(SystemTime::UNIX_EPOCH + Duration::from_micros(1900)),
        }
    }

    fn told(frame: &Bytes) -> WatchTokenResponse {
        WatchTokenResponse::decode(&frame[5..]).unwrap()
    }

    #[test]
    fn who_is_told_the_same_within_a_millisecond_gets_the_same_frame() {
        let (first, later) = (issued(), {
            let mut later = issued();
            later.time_to_live -= 900 * 1000 * NANOSECOND;
            later.keep_for -= 900 * 1000 * NANOSECOND;
            later.previous_expire_time = later
                .previous_expire_time
                .map(|at| at - 900 * 1000 * NANOSECOND);
            later
        });
        let later = Issued {
            token: Arc::clone(&first.token),
            ..later
        };
        let frames = [&first, &later].map(|issued| frame("shop", issued, Cause::Rotated));
        assert_eq!(frames[0].as_ptr(), frames[1].as_ptr());
        let token = told(&frames[0]).token.unwrap();
        let life = Duration::try_from(token.time_to_live.unwrap()).unwrap();
        let keep = Duration::try_from(token.keep_for.unwrap()).unwrap();
        assert!(life <= later.time_to_live && keep <= later.keep_for);
        let previous = SystemTime::try_from(token.previous_expire_time.unwrap());
        assert!(previous.unwrap() <= later.previous_expire_time.unwrap());
    }

    #[test]
    fn whatever_is_not_the_same_is_told_as_it_is() {
        let first = issued();
        let but = |change: fn(&mut Issued)| {
            let mut other = first.clone();
            change(&mut other);
            other
        };
        let table = [
            ("wx1", first.clone(), Cause::Rotated),
            ("shop", first.clone(), Cause::Current),
            (
                "shop",
                but(|i| i.time_to_live -= MILLISECOND),
                Cause::Rotated,
            ),
            ("shop", but(|i| i.keep_for -= MILLISECOND), Cause::Rotated),
            (
                "shop",
                but(|i| i.previous_expire_time = None),
                Cause::Rotated,
            ),
            ("shop", but(|i| i.token = issued().token), Cause::Rotated),
        ];
        for (case, (app_id, issued, cause)) in table.iter().enumerate() {
            let before = frame("shop", &first, Cause::Rotated);
            let after = frame(app_id, issued, *cause);
            assert_ne!(before.as_ptr(), after.as_ptr(), "case {case}");
            let message = told(&after);
            assert_eq!(message.cause(), *cause);
            let expected = wire::token((*app_id).to_owned(), issued);
            assert_eq!(message.token, Some(expected), "case {case}");
        }
    }
}
