//! Figures that are looked up when somebody asks for them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What such a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It goes up and down.
    Gauge,
    /// It goes up.
    Counter,
}

type Look = Box<dyn Fn() -> Vec<(&'static str, f64)> + Send + Sync>;

/// A family with one label, or none.
pub(super) struct Sampled {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    /// The label's name; empty for a family without labels.
    pub(super) label: &'static str,
    /// The label's values with their figures.
    pub(super) look: Look,
}

impl Collector for Sampled {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let samples = (self.look)();
        if samples.is_empty() {
            return Ok(());
        }
        let kind = match self.kind {
            Kind::Gauge => MetricType::Gauge,
            Kind::Counter => MetricType::Counter,
        };
        let mut family = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        if self.label.is_empty() {
            let figure = samples.first().map_or(0.0, |(_, figure)| *figure);
            return match self.kind {
                Kind::Gauge => ConstGauge::new(figure).encode(family),
                Kind::Counter => ConstCounter::new(figure).encode(family),
            };
        }
        for (value, figure) in samples {
            let labels = [(self.label, value)];
            let sample = family.encode_family(&labels)?;
            match self.kind {
                Kind::Gauge => ConstGauge::new(figure).encode(sample)?,
                Kind::Counter => ConstCounter::new(figure).encode(sample)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampled").field("name", &self.name).finish_non_exhaustive()
    }
}
