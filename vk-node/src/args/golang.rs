//! Go Virtual Kubelet's flags: those of `cmd/virtual-kubelet` and of the older `node-cli` that are not ours
//! too. None is refused, and none is dropped in silence.

use std::str::FromStr;

use clap::Args;

use crate::args::Flags;
use crate::config::scalar::{Period, Ratio, parse_switch};

/// Flags that only Go Virtual Kubelet has.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct GoFlags {
    #[arg(long, hide = true)]
    pub(crate) pod_sync_workers: Option<usize>,
    #[arg(long, hide = true)]
    pub(crate) full_resync_period: Option<Period>,
    #[arg(long, hide = true)]
    pub(crate) client_verify_ca: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch)]
    pub(crate) no_verify_clients: Option<bool>,

    #[arg(long, hide = true)]
    pub(crate) stream_idle_timeout: Option<Period>,
    #[arg(long, hide = true)]
    pub(crate) cluster_domain: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) metrics_addr: Option<String>,
    #[arg(long, hide = true)]
    pub(crate) namespace: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch)]
    pub(crate) enable_node_lease: Option<bool>,
    #[arg(long, hide = true)]
    pub(crate) kube_api_qps: Option<f64>,
    #[arg(long, hide = true)]
    pub(crate) kube_api_burst: Option<i64>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = parse_switch)]
    pub(crate) authentication_token_webhook: Option<bool>,
    #[arg(long, hide = true)]
    pub(crate) authentication_token_webhook_cache_ttl: Option<Period>,
    #[arg(long, hide = true)]
    pub(crate) authorization_webhook_cache_authorized_ttl: Option<Period>,
    #[arg(long, hide = true)]
    pub(crate) authorization_webhook_cache_unauthorized_ttl: Option<Period>,
    #[arg(long, hide = true, value_delimiter = ',')]
    pub(crate) trace_exporter: Vec<String>,
    #[arg(long, hide = true)]
    pub(crate) trace_sample_rate: Option<SampleRate>,
    #[arg(long, hide = true)]
    pub(crate) trace_zpages_addr: Option<String>,
}

/// Go's `--trace-sample-rate`: `always`, `never`, or a percentage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SampleRate(Ratio);

impl FromStr for SampleRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent =
            match text.to_lowercase().as_str() {
                "always" | "" => 100,
                "never" => 0,
                number => number.parse().ok().filter(|percent| *percent <= 100_u8).ok_or_else(|| {
                    format!("bad rate {text:?}: it is always, never, or a whole percentage")
                })?,
            };
        Ok(Self(Ratio(f64::from(percent) / 100.0)))
    }
}

const NO_EXPORTERS: &str = "traces go out by OTLP alone, see --otlp-endpoint";

impl Flags {
    /// Turns Go's flags into ours, and says so in one line each. A flag of ours that is given too wins.
    pub(crate) fn translate(&mut self) -> Vec<String> {
        let go = std::mem::take(&mut self.go);
        let mut notes = Vec::new();
        let mut renamed = |given: bool, theirs: &str, ours: &str| {
            if given {
                notes.push(format!("--{theirs} is deprecated: use --{ours}"));
            }
        };
        renamed(go.pod_sync_workers.is_some(), "pod-sync-workers", "pod-workers");
        renamed(go.full_resync_period.is_some(), "full-resync-period", "drift-check-interval");
        renamed(go.client_verify_ca.is_some(), "client-verify-ca", "client-ca-file");
        renamed(go.no_verify_clients.is_some(), "no-verify-clients", "insecure-allow-anonymous");
        renamed(go.stream_idle_timeout.is_some(), "stream-idle-timeout", "streaming-connection-idle-timeout");
        renamed(go.trace_sample_rate.is_some(), "trace-sample-rate", "trace-sample-ratio");
        self.trace_sample_ratio =
            self.trace_sample_ratio.or(go.trace_sample_rate.map(|SampleRate(rate)| rate));
        self.streaming_connection_idle_timeout =
            self.streaming_connection_idle_timeout.or(go.stream_idle_timeout);
        self.pod_workers = self.pod_workers.or(go.pod_sync_workers);
        self.drift_check_interval = self.drift_check_interval.or(go.full_resync_period);
        self.client_ca_file = self.client_ca_file.take().or(go.client_verify_ca.map(Into::into));
        self.insecure_allow_anonymous = self.insecure_allow_anonymous.or(go.no_verify_clients);

        let mut nothing = |given: bool, theirs: &str, why: &str| {
            if given {
                notes.push(format!("--{theirs} does nothing here: {why}"));
            }
        };
        nothing(
            go.cluster_domain.is_some(),
            "cluster-domain",
            "the pods' DNS settings are not passed to the provider yet",
        );
        nothing(
            go.metrics_addr.is_some(),
            "metrics-addr",
            "the daemon's own metrics are served at --admin-listen, the pods' at the kubelet API",
        );
        nothing(go.namespace.is_some(), "namespace", "a node runs the pods of every namespace");
        nothing(
            go.enable_node_lease.is_some(),
            "enable-node-lease",
            "a lease is always kept where the cluster allows one",
        );
        nothing(go.kube_api_qps.is_some(), "kube-api-qps", "there is no client-side rate limit");
        nothing(go.kube_api_burst.is_some(), "kube-api-burst", "there is no client-side rate limit");
        nothing(
            go.authentication_token_webhook.is_some(),
            "authentication-token-webhook",
            "tokens are always reviewed where the cluster allows it",
        );
        for (given, name) in [
            (go.authentication_token_webhook_cache_ttl, "authentication-token-webhook-cache-ttl"),
            (go.authorization_webhook_cache_authorized_ttl, "authorization-webhook-cache-authorized-ttl"),
            (go.authorization_webhook_cache_unauthorized_ttl, "authorization-webhook-cache-unauthorized-ttl"),
        ] {
            nothing(
                given.is_some(),
                name,
                "how long reviews are remembered is fixed, as the kubelet's defaults",
            );
        }
        nothing(!go.trace_exporter.is_empty(), "trace-exporter", NO_EXPORTERS);
        nothing(go.trace_zpages_addr.is_some(), "trace-zpages-addr", NO_EXPORTERS);
        notes
    }
}

/// klog's switches, which take no value of their own; its other flags do.
const KLOG_SWITCHES: [&str; 7] = [
    "add_dir_header",
    "alsologtostderr",
    "legacy_stderr_threshold_behavior",
    "logtostderr",
    "one_output",
    "skip_headers",
    "skip_log_headers",
];

/// Takes `--klog.*` out of a command line: there are a dozen, their names are klog's, and all they could do is
/// what `--log-level` does.
pub(crate) fn take_klog_flags(line: impl IntoIterator<Item = String>) -> (Vec<String>, Vec<String>) {
    let mut rest = Vec::new();
    let mut notes = Vec::new();
    let mut words = line.into_iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--klog.") else {
            rest.push(word);
            continue;
        };
        let name = flag.split('=').next().unwrap_or_default();
        if !flag.contains('=') && !KLOG_SWITCHES.contains(&name) {
            words.next();
        }
        notes.push(format!("--klog.{name} does nothing here: use --log-level"));
    }
    (rest, notes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Parsed, parse};
    use crate::env::Environment;

    fn run(words: &[&str]) -> (Flags, Vec<String>) {
        let line = std::iter::once("vk-node").chain(words.iter().copied()).map(str::to_owned);
        match parse(line) {
            Ok(Parsed::Run(cli, mut notes)) => {
                let mut flags = cli.run.flags;
                notes.extend(flags.translate());
                (flags, notes)
            }
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn every_go_flag_is_accepted_and_says_what_it_comes_to() {
        // Flag with a value, and the one line for it; empty where the flag is ours too.
        let table: &[(&str, &str)] = &[
            ("--kubeconfig=/k", ""),
            ("--nodename=n", ""),
            ("--os=Linux", ""),
            ("--provider=mock", ""),
            ("--provider-config=/p.json", ""),
            ("--startup-timeout=0", ""),
            ("--disable-taint", ""),
            ("--disable-taint=false", ""),
            ("--taint=example.com/key", ""),
            (
                "--stream-idle-timeout=30s",
                "--stream-idle-timeout is deprecated: use --streaming-connection-idle-timeout",
            ),
            ("--stream-creation-timeout=30s", ""),
            ("--log-level=info", ""),
            ("--pod-sync-workers=10", "--pod-sync-workers is deprecated: use --pod-workers"),
            ("--full-resync-period=1m0s", "--full-resync-period is deprecated: use --drift-check-interval"),
            ("--client-verify-ca=/ca", "--client-verify-ca is deprecated: use --client-ca-file"),
            ("--no-verify-clients", "--no-verify-clients is deprecated: use --insecure-allow-anonymous"),
            (
                "--cluster-domain=cluster.local",
                "--cluster-domain does nothing here: the pods' DNS settings are not passed to the provider yet",
            ),
            (
                "--metrics-addr=:10255",
                "--metrics-addr does nothing here: the daemon's own metrics are served at --admin-listen, the pods' at the kubelet API",
            ),
            ("--namespace=default", "--namespace does nothing here: a node runs the pods of every namespace"),
            (
                "--enable-node-lease",
                "--enable-node-lease does nothing here: a lease is always kept where the cluster allows one",
            ),
            ("--kube-api-qps=5", "--kube-api-qps does nothing here: there is no client-side rate limit"),
            ("--kube-api-burst=10", "--kube-api-burst does nothing here: there is no client-side rate limit"),
            (
                "--authentication-token-webhook",
                "--authentication-token-webhook does nothing here: tokens are always reviewed where the cluster allows it",
            ),
            (
                "--authorization-webhook-cache-authorized-ttl=5m",
                "--authorization-webhook-cache-authorized-ttl does nothing here: how long reviews are remembered is fixed, as the kubelet's defaults",
            ),
            (
                "--trace-exporter=jaeger",
                "--trace-exporter does nothing here: traces go out by OTLP alone, see --otlp-endpoint",
            ),
            ("--trace-service-name=x", ""),
            ("--trace-tag=a=b", ""),
            ("--trace-sample-rate=100", "--trace-sample-rate is deprecated: use --trace-sample-ratio"),
            ("--trace-sample-rate=never", "--trace-sample-rate is deprecated: use --trace-sample-ratio"),
            ("--klog.v=2", "--klog.v does nothing here: use --log-level"),
            ("--klog.logtostderr", "--klog.logtostderr does nothing here: use --log-level"),
        ];
        for (flag, line) in table {
            let (_, notes) = run(&[flag]);
            let expected: Vec<String> = if line.is_empty() { vec![] } else { vec![(*line).to_owned()] };
            assert_eq!(notes, expected, "{flag}");
        }
    }

    #[test]
    fn a_switch_is_written_as_go_writes_it() {
        for (text, on) in [
            ("1", true),
            ("t", true),
            ("T", true),
            ("true", true),
            ("TRUE", true),
            ("True", true),
            ("0", false),
            ("f", false),
            ("F", false),
            ("false", false),
            ("FALSE", false),
            ("False", false),
        ] {
            let (flags, _) =
                run(&[&format!("--disable-taint={text}"), &format!("--no-verify-clients={text}")]);
            assert_eq!((flags.disable_taint, flags.insecure_allow_anonymous), (Some(on), Some(on)), "{text}");
            let environment = Environment::read([("VK_DRAIN".to_owned(), text.to_owned())]).unwrap();
            assert_eq!(environment.layers[0].drain, Some(on), "{text}");
        }
        for text in ["yes", "tRUE", "2", "on"] {
            let line =
                parse(["vk-node".to_owned(), format!("--disable-taint={text}")]).unwrap_err().to_string();
            assert_eq!(line, format!("bad switch {text:?} in --disable-taint: write true or false"));
        }
    }

    #[test]
    fn a_renamed_flag_sets_ours_unless_ours_is_given() {
        let (flags, _) = run(&["--pod-sync-workers=7", "--full-resync-period=90s", "--no-verify-clients"]);
        assert_eq!(flags.pod_workers, Some(7));
        assert_eq!(flags.drift_check_interval, Some(Period(std::time::Duration::from_secs(90))));
        assert_eq!(flags.insecure_allow_anonymous, Some(true));
        let (flags, _) = run(&["--pod-sync-workers=7", "--pod-workers=9"]);
        assert_eq!(flags.pod_workers, Some(9));
    }

    #[test]
    fn klog_flags_are_taken_with_their_values() {
        let line = ["vk-node", "--klog.v", "4", "--nodename", "a", "--klog.logtostderr", "run"];
        let (rest, notes) = take_klog_flags(line.map(str::to_owned));
        assert_eq!(rest, ["vk-node", "--nodename", "a", "run"]);
        assert_eq!(notes.len(), 2);
    }
}
