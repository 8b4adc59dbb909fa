//! A writer that never waits: lines go through a queue to a thread that writes them.
//!
//! Whoever takes the log may stall, as the reader of a full pipe does. Then every thread with something
//! to say would stand still, and refreshes, calls and the stop with them. So a line that finds no room
//! is lost, and once the log flows again it says how many were.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::warn;

/// Lines that may wait. A server that has something to say every millisecond has other troubles.
const ROOM: usize = 1000;

/// Left at the end to those that still wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Each write is one line.
#[derive(Clone, Debug)]
pub(super) struct Pen(Arc<Desk>);

/// What is not written yet. Dropping this waits for it, but not for long.
#[derive(Debug)]
#[must_use = "what is logged last is lost when the program ends before it is written"]
pub struct Unwritten(Arc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    page: Mutex<Page>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Page {
    lines: VecDeque<Vec<u8>>,
    lost: usize,
    is_writing: bool,
}

impl Pen {
    /// Writes to `out`, on a thread that lives as long as the process.
    pub(super) fn new(out: impl Write + Send + 'static) -> (Self, Unwritten) {
        let desk = Arc::new(Desk::default());
        let writing = Arc::clone(&desk);
        // Without a thread there is no log. A server can do without, and has nowhere to say so.
        let _ = thread::Builder::new()
            .name("log".into())
            .spawn(move || writing.write(out));
        (Self(Arc::clone(&desk)), Unwritten(desk))
    }
}

impl Write for Pen {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut page = self.0.page();
        if page.lines.len() < ROOM {
            page.lines.push_back(line.to_vec());
        } else {
            page.lost += 1;
        }
        drop(page);
        self.0.changed.notify_all();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Desk {
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut out: impl Write) {
        loop {
            let (lines, lost) = self.next();
            for line in lines {
                // Nobody reads it any more: whom should that be told?
                let _ = out.write_all(&line);
            }
            let _ = out.flush();
            if lost > 0 {
                warn!(
                    lines = lost,
                    "the log was not taken in time, so some of it is lost"
                );
            }
        }
    }

    /// Waits for lines, and says how many were lost before.
    fn next(&self) -> (VecDeque<Vec<u8>>, usize) {
        let mut page = self.page();
        page.is_writing = false;
        self.changed.notify_all();
        let waiting = self.changed.wait_while(page, |page| page.lines.is_empty());
        let mut page = waiting.unwrap_or_else(PoisonError::into_inner);
        page.is_writing = true;
        let page = &mut *page;
        (
            std::mem::take(&mut page.lines),
            std::mem::take(&mut page.lost),
        )
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        let is_left = |page: &mut Page| page.is_writing || !page.lines.is_empty();
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.0.page(), PATIENCE, is_left);
        drop(waited);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tokio::time::Instant;

    use super::*;

    /// Takes a line for each permit.
    struct Reader {
        permits: Receiver<()>,
        taken: Sender<String>,
    }

    impl Write for Reader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.permits.recv().map_err(io::Error::other)?;
            let text = String::from_utf8_lossy(line).into_owned();
            self.taken.send(text).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_logs_does_not_wait_for_the_reader_of_the_log() {
        let (permit, permits) = channel();
        let (taken, lines) = channel();
        let (mut pen, unwritten) = Pen::new(Reader { permits, taken });
        let begun = Instant::now();
        for line in 0..2 * ROOM {
            pen.write_all(format!("{line}").as_bytes()).unwrap();
        }
        drop(unwritten);
        assert!(begun.elapsed() < Duration::from_secs(10), "it waited");
        for _ in 0..ROOM {
            permit.send(()).unwrap();
        }
        for line in 0..ROOM {
            assert_eq!(lines.recv().unwrap(), line.to_string());
        }
    }

    #[test]
    fn what_is_said_last_is_written() {
        let (permit, permits) = channel();
        let (taken, lines) = channel();
        let (mut pen, unwritten) = Pen::new(Reader { permits, taken });
        pen.write_all(b"first").unwrap();
        pen.write_all(b"last").unwrap();
        permit.send(()).unwrap();
        permit.send(()).unwrap();
        drop(unwritten);
        let written: Vec<String> = lines.try_iter().collect();
        assert_eq!(written, ["first", "last"]);
    }
}
