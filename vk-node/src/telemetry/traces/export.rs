//! Sends ended spans to the receiver, in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::KeyValue;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::settings::TracingSettings;
use crate::fault::{Fault, chain};

/// Spans of one request at most.
const BATCH: usize = 512;
/// How long a span waits for company.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a request may take, and the last one.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where ended spans go.
#[derive(Debug)]
pub(crate) struct Exporter {
    settings: TracingSettings,
    ended: mpsc::Receiver<SpanData>,
    dropped: Arc<AtomicU64>,
}

impl Exporter {
    pub(super) fn new(
        settings: TracingSettings,
        ended: mpsc::Receiver<SpanData>,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Self { settings, ended, dropped }
    }

    /// Exports until `stop`, and then what is left. What the receiver does not take is lost, and told once until it
    /// takes something again.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let exporter = match self.exporter() {
            Ok(exporter) => exporter,
            Err(fault) => return tracing::error!("{fault}"),
        };
        let mut batch = Vec::with_capacity(BATCH);
        let mut failing = false;
        loop {
            // Cancel-safe: `recv_many` takes nothing when it is dropped.
            let stopped = tokio::select! {
                taken = self.ended.recv_many(&mut batch, BATCH) => taken == 0,
                () = stop.cancelled() => true,
            };
            if !stopped && batch.len() < BATCH {
                // Cancel-safe: waiting for company alone.
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => {}
                }
            }
            while batch.len() < BATCH
                && let Ok(span) = self.ended.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() && stopped {
                return;
            }
            let count = batch.len();
            let sent = tokio::time::timeout(TIMEOUT, exporter.export(std::mem::take(&mut batch))).await;
            let error = match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(chain(&error)),
                Err(_) => Some(format!("no answer within {TIMEOUT:?}")),
            };
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(dropped, "spans were dropped: they ended faster than they are exported");
            }
            match (&error, failing) {
                (Some(error), false) => {
                    tracing::warn!(endpoint = %self.settings.endpoint, count, error, "traces are not taken and are lost");
                }
                (None, true) => tracing::info!(endpoint = %self.settings.endpoint, "traces are taken again"),
                _ => {}
            }
            failing = error.is_some();
            // At the end a receiver that does not answer is not asked again.
            if stopped && failing {
                return;
            }
        }
    }

    fn exporter(&self) -> Result<SpanExporter, Fault> {
        let fault = |error: &dyn std::error::Error| {
            Fault::new("cannot export traces", format!("to {}", self.settings.endpoint), chain(error))
        };
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::aws_lc_rs::default_provider())
            .map_err(|error| fault(&error))?;
        let mut plain = HttpConnector::new();
        plain.enforce_http(false);
        let connector = tls.https_or_http().enable_http1().wrap_connector(plain);
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(HyperClient::new(connector, TIMEOUT, None))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", self.settings.endpoint.to_string().trim_end_matches('/')))
            .build()
            .map_err(|error| fault(&error))?;
        let attributes = self.settings.attributes.iter().map(|(k, v)| KeyValue::new(k.clone(), v.clone()));
        let resource = Resource::builder_empty()
            .with_service_name(self.settings.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attributes(attributes)
            .build();
        exporter.set_resource(&resource);
        Ok(exporter)
    }
}
