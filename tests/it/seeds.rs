//! Simulated weeks: many at once, each on a paused clock, each from a seed that tells all of it.
//!
//! `WXTOKEND_SEED=N` lives through one again, `WXTOKEND_SEEDS=N` through the first N.

use std::{
    env,
    ops::AddAssign,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::time::Instant;

/// Lives through `kept`, which failed once, and then `count` others. Returns what all of them saw.
pub(crate) fn live_through<L, F>(kept: &[u64], count: u64, week: impl Fn(u64) -> F + Sync) -> L
where
    L: AddAssign + Default + Send,
    F: Future<Output = L>,
{
    let number = |name| env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let count = number("WXTOKEND_SEEDS").unwrap_or(count);
    let only = number("WXTOKEND_SEED").map(|seed| vec![seed]);
    let seeds: Vec<_> = only.unwrap_or_else(|| kept.iter().copied().chain(0..count).collect());
    let began = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let share = || {
        let mut lived = L::default();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            lived += live(*seed, &next, &week);
        }
        lived
    };
    let mut all = L::default();
    thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|_| scope.spawn(share)).collect();
        for share in shares {
            all += share.join().expect("every week ends well");
        }
    });
    println!(
        "{} weeks in {:.1} s",
        seeds.len(),
        began.elapsed().as_secs_f64()
    );
    all
}

fn live<L, F: Future<Output = L>>(seed: u64, next: &AtomicUsize, week: impl Fn(u64) -> F) -> L {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    // The dice of the product too.
    fastrand::seed(seed);
    let _guard = OnPanic { seed, next };
    runtime.block_on(async { week(seed).await })
}

/// Tells how to live through a week again that ended badly, and begins no other.
struct OnPanic<'a> {
    seed: u64,
    next: &'a AtomicUsize,
}

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("run this week again with WXTOKEND_SEED={}", self.seed);
            self.next.store(usize::MAX / 2, Ordering::Relaxed);
        }
    }
}
