//! Traces by OTLP: one for each pod's life. A trace's ID is its pod's UID, so it is the same one before and after a
//! restart of the daemon, and can be looked up by what `kubectl get pod -o yaml` shows.
//!
//! `tracing-opentelemetry` does not let a layer choose the IDs of another layer's spans; this one makes OpenTelemetry's
//! span data itself. Spans that belong to no pod are not exported. The span that all others are below is exported at
//! the pod's end.

mod export;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Event as SpanEvent, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

pub(crate) use self::export::Exporter;
use crate::config::settings::TracingSettings;

/// Ended spans that wait for the exporter; further ones are dropped and counted.
const QUEUE: usize = 4096;
/// Events that one span keeps.
const MOST_EVENTS: usize = 64;

/// Makes a layer, and what sends its spans away.
pub(super) fn start(settings: &TracingSettings) -> (Pods, Exporter) {
    let (queue, ended) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let pods = Pods {
        queue,
        dropped: Arc::clone(&dropped),
        ratio: settings.sample_ratio,
        scope: InstrumentationScope::builder("vk-node").with_version(env!("CARGO_PKG_VERSION")).build(),
    };
    (pods, Exporter::new(settings.clone(), ended, dropped))
}

/// The layer.
pub(super) struct Pods {
    queue: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
    ratio: f64,
    scope: InstrumentationScope,
}

/// A span that runs, kept with it.
struct Running {
    trace: TraceId,
    span: SpanId,
    parent: SpanId,
    start: SystemTime,
    fields: Fields,
    events: Vec<SpanEvent>,
    dropped_events: u32,
    /// The first thing that went wrong.
    wrong: Option<String>,
}

impl<S> Layer<S> for Pods
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let above = span.parent().and_then(|parent| {
            parent.extensions().get::<Running>().map(|running| (running.trace, running.span))
        });
        let ids = match (above, &fields.uid) {
            (Some((trace, above)), _) => Some((trace, above, random())),
            (None, Some(uid)) => {
                let trace = trace_of(uid);
                let root = root_of(trace);
                Some(if fields.root { (trace, SpanId::INVALID, root) } else { (trace, root, random()) })
            }
            (None, None) => None,
        };
        if let Some((trace, parent, id)) = ids.filter(|(trace, ..)| sampled(*trace, self.ratio)) {
            span.extensions_mut().insert(Running {
                trace,
                span: id,
                parent,
                start: SystemTime::now(),
                fields,
                events: Vec::new(),
                dropped_events: 0,
                wrong: None,
            });
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(running) = span.extensions_mut().get_mut::<Running>()
        {
            values.record(&mut running.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(span) = context.event_span(event) else { return };
        let mut extensions = span.extensions_mut();
        let Some(running) = extensions.get_mut::<Running>() else { return };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.message.unwrap_or_default();
        if *event.metadata().level() <= Level::WARN && running.wrong.is_none() {
            running.wrong = Some(message.clone());
        }
        if running.events.len() == MOST_EVENTS {
            running.dropped_events += 1;
        } else {
            fields.all.push(KeyValue::new("level", event.metadata().level().as_str()));
            running.events.push(SpanEvent::new(message, SystemTime::now(), fields.all, 0));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(running) = span.extensions_mut().remove::<Running>() else { return };
        let end = SystemTime::now();
        let age = running.fields.age;
        let mut events = SpanEvents::default();
        events.events = running.events;
        events.dropped_count = running.dropped_events;
        let data = SpanData {
            span_context: SpanContext::new(
                running.trace,
                running.span,
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: running.parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: running.fields.name.map_or(span.name().into(), Into::into),
            start_time: age.and_then(|age| running.start.checked_sub(age)).unwrap_or(running.start),
            end_time: end,
            attributes: running.fields.all,
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: running.wrong.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        };
        if self.queue.try_send(data).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The fields of a span or an event. Some are directions for this layer, and no attributes.
#[derive(Default)]
struct Fields {
    all: Vec<KeyValue>,
    uid: Option<String>,
    name: Option<String>,
    message: Option<String>,
    root: bool,
    age: Option<Duration>,
}

impl Fields {
    fn text(&mut self, field: &Field, text: String) {
        match field.name() {
            "otel.name" => self.name = Some(text),
            "message" => self.message = Some(text),
            name => {
                if name == "k8s.pod.uid" {
                    self.uid = Some(text.clone());
                }
                self.all.push(KeyValue::new(name, text));
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "vk.root" => self.root = value,
            name => self.all.push(KeyValue::new(name, value)),
        }
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.all.push(KeyValue::new(field.name(), value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "vk.age_ms" => self.age = Some(Duration::from_millis(value)),
            name => self.all.push(KeyValue::new(name, i64::try_from(value).unwrap_or(i64::MAX))),
        }
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.all.push(KeyValue::new(field.name(), value));
    }
}

fn random() -> SpanId {
    SpanId::from(fastrand::u64(1..))
}

/// The trace of a pod: its UID, or a hash of one that is no UUID.
fn trace_of(uid: &str) -> TraceId {
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    let id = (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok()).flatten();
    // FNV-1a.
    let hash = || {
        uid.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
    };
    TraceId::from(id.filter(|id| *id != 0).unwrap_or_else(hash))
}

/// The span that stands for the pod's whole life, in whichever process that ends.
fn root_of(trace: TraceId) -> SpanId {
    let id = u128::from_be_bytes(trace.to_bytes());
    let folded = (id >> 64) as u64 ^ id as u64;
    SpanId::from(folded.max(1))
}

/// Whether a trace is one of those that are kept: by the last 56 bits of its ID, as W3C Trace Context's level 2 has it.
fn sampled(trace: TraceId, ratio: f64) -> bool {
    let id = u128::from_be_bytes(trace.to_bytes()) & ((1 << 56) - 1);
    (id as f64) < ratio * (1_u64 << 56) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_trace_is_its_uid() {
        let trace = trace_of("0af76519-16cd-43dd-8448-eb211c80319c");
        assert_eq!(trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_ne!(trace_of("mirror"), trace_of("other"));
        assert_eq!(root_of(trace), root_of(trace));
        assert_ne!(root_of(trace), SpanId::INVALID);
    }

    #[test]
    fn a_share_of_pods_is_sampled_and_a_pod_always_the_same() {
        let traces: Vec<TraceId> =
            (0..2000_u64).map(|_| TraceId::from(u128::from(fastrand::u64(..)) | 1 << 100)).collect();
        let kept = |ratio| traces.iter().filter(|trace| sampled(**trace, ratio)).count();
        assert_eq!((kept(0.0), kept(1.0)), (0, 2000));
        assert!((300..700).contains(&kept(0.25)), "{}", kept(0.25));
    }
}
