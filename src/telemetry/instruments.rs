//! What is counted with: counters and histograms that cost a few atomic additions, and families of
//! them.
//!
//! `prometheus_client` writes the text. Its own histogram takes a lock for each observation, and its
//! counters get two names, as the newer text format wants it, which `promtool check metrics` takes for
//! two metrics; so these are ours. A family locks only to hand out a series, which is done
//! once, and to be read.

use std::{
    collections::BTreeMap,
    fmt::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

/// Only grows. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Count(Arc<AtomicU64>);

impl Count {
    /// One more.
    pub(super) fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl TypedMetric for Count {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Count {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        // `encode_counter` would add a second `_total` to the name.
        encoder.encode_gauge(&self.0.load(Relaxed))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// How long things take. Clones count together.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// Upper bounds in seconds, rising.
    bounds: &'static [f64],
    /// One for each bound, and one for what is longer.
    counts: Box<[AtomicU64]>,
    nanos: AtomicU64,
}

impl Histogram {
    /// One with these upper bounds, in seconds, rising.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        Self(Arc::new(Buckets {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanos: AtomicU64::new(0),
        }))
    }

    /// Something took this long.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.0.bounds.partition_point(|bound| *bound < seconds);
        self.0.counts[bucket].fetch_add(1, Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanos.fetch_add(nanos, Relaxed);
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.0.counts.iter().map(|count| count.load(Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanos.load(Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// One instrument for each combination of label values. Clones are the same family.
#[derive(Clone, Debug)]
pub(super) struct Family<M> {
    labels: &'static [&'static str],
    make: fn() -> M,
    series: Arc<Mutex<BTreeMap<Vec<String>, M>>>,
}

impl<M: Clone> Family<M> {
    pub(super) fn new(labels: &'static [&'static str], make: fn() -> M) -> Self {
        let series = Arc::default();
        Self {
            labels,
            make,
            series,
        }
    }

    /// The one with these label values, in the order of the labels; made if it is new.
    pub(super) fn of(&self, values: &[&str]) -> M {
        debug_assert_eq!(values.len(), self.labels.len(), "{:?}", self.labels);
        let values = values.iter().map(|&value| value.to_owned()).collect();
        self.series()
            .entry(values)
            .or_insert_with(self.make)
            .clone()
    }

    fn series(&self) -> MutexGuard<'_, BTreeMap<Vec<String>, M>> {
        let series = self.series.lock();
        series.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: EncodeMetric + TypedMetric + Clone> EncodeMetric for Family<M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        for (values, one) in self.series().iter() {
            let values = values.iter().map(String::as_str);
            let labels: Vec<(&str, &str)> = self.labels.iter().copied().zip(values).collect();
            one.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.series().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text, registry::Registry};

    use super::*;

    fn written(
        name: &str,
        metric: impl EncodeMetric + Send + Sync + std::fmt::Debug + 'static,
    ) -> String {
        let mut registry = Registry::default();
        registry.register(name, "Help", metric);
        let mut page = String::new();
        text::encode_registry(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn a_counter_is_called_the_same_in_its_head_and_in_its_lines() {
        let family = Family::new(&["app", "result"], Count::default);
        family.of(&["shop", "ok"]).inc();
        family.of(&["shop", "ok"]).inc();
        family.of(&["other", "ok"]);
        let expected = "# HELP x_total Help.\n# TYPE x_total counter\n\
             x_total{app=\"other\",result=\"ok\"} 0\nx_total{app=\"shop\",result=\"ok\"} 2\n";
        assert_eq!(written("x_total", family), expected);
    }

    #[test]
    fn a_bound_belongs_to_its_bucket_and_every_bucket_holds_the_smaller_ones() {
        let histogram = Histogram::new(&[0.5, 2.0]);
        for millis in [0, 500, 501, 2000, 2001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let page = written("x", histogram);
        let lines: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "x_sum 5.002",
            "x_count 5",
            "x_bucket{le=\"0.5\"} 2",
            "x_bucket{le=\"2.0\"} 4",
            "x_bucket{le=\"+Inf\"} 5",
        ];
        assert_eq!(lines, expected);
    }
}
