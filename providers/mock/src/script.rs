//! What a pod is told to do, read from annotations and from the configured defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use vk_core::provider::Error;

use crate::quantity;

/// What every annotation of this provider begins with.
pub const PREFIX: &str = "mock.virtual-kubelet.io/";

/// Keys and values without the [`PREFIX`], as written in a pod's annotations or in the configuration.
pub(crate) type Pairs = BTreeMap<String, String>;

/// The whole script of a pod. See the [crate documentation](crate) for the table of keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Script {
    pub(crate) sandbox_latency: Duration,
    pub(crate) start_latency: Duration,
    pub(crate) never_start: Option<String>,
    pub(crate) pod_ip: Option<IpAddr>,
    pub(crate) fail_create: Option<Failure>,
    pub(crate) fail_delete: Option<Failure>,
    pub(crate) reject_create: Option<String>,
    pub(crate) evict_after: Option<Duration>,
    pub(crate) disappear_after: Option<Duration>,
    every: ContainerScript,
    named: BTreeMap<String, ContainerScript>,
}

/// The script of one container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerScript {
    pub(crate) run: Run,
    /// The exit code of each run; the last one goes on.
    pub(crate) exit_codes: Vec<i32>,
    pub(crate) oom_after: Option<Duration>,
    pub(crate) readiness_delay: Duration,
    /// `None` ignores SIGTERM.
    pub(crate) termination_latency: Option<Duration>,
    /// `None`: nothing but SIGTERM's default is scripted, and the backend has no more to tell than that it is gone.
    pub(crate) termination_exit_code: Option<i32>,
    pub(crate) termination_message: Option<String>,
    pub(crate) log: Option<String>,
    /// Lines per second, after the first ones.
    pub(crate) log_rate: f64,
    pub(crate) log_line_bytes: usize,
    /// Every so many lines, one goes to standard error; 0 is none.
    pub(crate) log_stderr_every: u64,
    /// Cores.
    pub(crate) cpu_usage: Option<f64>,
    /// Bytes.
    pub(crate) memory_usage: Option<f64>,
}

impl ContainerScript {
    /// Whether an end by SIGTERM is one to speak of.
    pub(crate) fn tells_termination(&self) -> bool {
        self.termination_exit_code.is_some()
            || self.termination_message.is_some()
            || self.termination_latency != Some(Duration::ZERO)
    }
}

impl Default for ContainerScript {
    fn default() -> Self {
        Self {
            run: Run::ByKind,
            exit_codes: Vec::new(),
            oom_after: None,
            readiness_delay: Duration::ZERO,
            termination_latency: Some(Duration::ZERO),
            termination_exit_code: None,
            termination_message: None,
            log: None,
            log_rate: 0.0,
            log_line_bytes: 0,
            log_stderr_every: 0,
            cpu_usage: None,
            memory_usage: None,
        }
    }
}

/// How long a container runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Run {
    /// An init container ends at once, every other one runs until it is stopped; with exit codes given,
    /// all end at once.
    ByKind,
    Forever,
    For(Duration),
}

/// A failure of the first calls for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) times: u32,
}

/// Which error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailureKind {
    Unavailable,
    Exhausted,
    Throttled,
    Denied,
    Unexpected,
}

/// The configured defaults, and the script that they make: pods without annotations share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scripts {
    defaults: Pairs,
    unannotated: Arc<Script>,
}

impl Scripts {
    /// # Errors
    /// The offending key and what is wrong with it.
    pub(crate) fn new(defaults: Pairs) -> Result<Self, (String, String)> {
        let unannotated = Arc::new(Script::build(&defaults, &Pairs::new())?);
        Ok(Self { defaults, unannotated })
    }

    /// The script of a pod with these annotations.
    ///
    /// # Errors
    /// [`Error::Rejected`] for an annotation that makes no sense.
    pub(crate) fn for_annotations(&self, annotations: Option<&Pairs>) -> Result<Arc<Script>, Error> {
        let Some(annotations) = annotations else { return Ok(Arc::clone(&self.unannotated)) };
        match Script::build(&self.defaults, annotations) {
            Ok(script) => Ok(Arc::new(script)),
            Err((key, reason)) => Err(refused(&key, &reason)),
        }
    }
}

impl Script {
    /// The script of a pod: the configured defaults, overridden key by key by its annotations. A key with
    /// a container's name is stronger than the same key without one.
    ///
    /// # Errors
    /// The offending key and what is wrong with it.
    pub(crate) fn build(defaults: &Pairs, annotations: &Pairs) -> Result<Self, (String, String)> {
        let mut merged: BTreeMap<&str, &str> = BTreeMap::new();
        merged.extend(defaults.iter().chain(annotations).map(|(key, value)| (key.as_str(), value.as_str())));
        let mut script = Self::default();
        let (general, named): (Vec<_>, Vec<_>) = merged.into_iter().partition(|(key, _)| !key.contains('.'));
        for (key, value) in general {
            script.set(key, value).map_err(|reason| (key.to_owned(), reason))?;
        }
        for (key, value) in named {
            let (field, container) = key.split_once('.').unwrap_or((key, ""));
            let every = &script.every;
            let script = script.named.entry(container.to_owned()).or_insert_with(|| every.clone());
            script.set(field, value).map_err(|reason| (key.to_owned(), reason))?;
        }
        Ok(script)
    }

    /// The script of a container.
    pub(crate) fn container(&self, name: &str) -> &ContainerScript {
        self.named.get(name).unwrap_or(&self.every)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "sandbox-latency" => self.sandbox_latency = duration(value)?,
            "start-latency" => self.start_latency = duration(value)?,
            "never-start" => self.never_start = Some(camel_case(value)?),
            "pod-ip" => {
                self.pod_ip = Some(value.parse().map_err(|_| format!("{value:?} is not an IP address"))?);
            }
            "fail-create" => self.fail_create = Some(failure(value)?),
            "fail-delete" => self.fail_delete = Some(failure(value)?),
            "reject-create" => self.reject_create = Some(field_path(value)?),
            "evict-after" => self.evict_after = unless_never(value)?,
            "disappear-after" => self.disappear_after = unless_never(value)?,
            _ => return self.every.set(key, value),
        }
        Ok(())
    }
}

impl ContainerScript {
    /// The exit code of a run, counted from 0.
    pub(crate) fn exit_code(&self, attempt: u32) -> i32 {
        let last = self.exit_codes.len().saturating_sub(1);
        self.exit_codes.get(last.min(attempt as usize)).copied().unwrap_or(0)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "run-duration" => self.run = unless_never(value)?.map_or(Run::Forever, Run::For),
            "exit-code" => self.exit_codes = exit_codes(value)?,
            "oom-after" => self.oom_after = unless_never(value)?,
            "readiness-delay" => self.readiness_delay = duration(value)?,
            "termination-latency" => self.termination_latency = unless_never(value)?,
            "termination-exit-code" => self.termination_exit_code = Some(exit_code(value)?),
            "termination-message" => self.termination_message = Some(short(value, 4096)?),
            "log" => self.log = Some(short(value, 65_536)?),
            "log-rate" => self.log_rate = number(value, 1e6)?,
            "log-line-bytes" => self.log_line_bytes = number(value, 65_536.0)? as usize,
            "log-stderr-every" => self.log_stderr_every = number(value, 1e9)? as u64,
            "cpu-usage" => self.cpu_usage = Some(quantity(value)?),
            "memory-usage" => self.memory_usage = Some(quantity(value)?),
            _ => return Err("unknown key; the keys are in the documentation of the mock provider".to_owned()),
        }
        Ok(())
    }
}

impl Failure {
    /// The error for the `attempt`th call, counted from 0, while there is one.
    pub(crate) fn error(self, attempt: u32, what: &str) -> Option<Error> {
        if attempt >= self.times {
            return None;
        }
        let message = format!("scripted failure {} of {} to {what}", attempt + 1, self.times);
        Some(match self.kind {
            FailureKind::Unavailable => Error::unavailable(message),
            FailureKind::Unexpected => Error::unexpected(message),
            FailureKind::Denied => Error::Denied { message, source: None },
            FailureKind::Throttled => Error::Throttled { retry_after: None, source: Some(message.into()) },
            FailureKind::Exhausted => {
                Error::Exhausted { resource: "scripted capacity".to_owned(), source: Some(message.into()) }
            }
        })
    }
}

/// The annotations of this provider, without the prefix.
pub(crate) fn pairs_of(annotations: Option<&BTreeMap<String, String>>) -> Pairs {
    let own = annotations
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| key.strip_prefix(PREFIX).map(|key| (key.to_owned(), value.clone())));
    own.collect()
}

/// The error for an annotation that makes no sense.
pub(crate) fn refused(key: &str, reason: &str) -> Error {
    Error::rejected(format!("metadata.annotations[{PREFIX}{key}]"), reason)
}

/// `250ms`, `1m 30s`, or a plain `0`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let bad = |_| format!("{text:?} is not a duration such as 250ms, 10s or 1m30s");
    let duration = humantime::parse_duration(text).map_err(bad)?;
    // Ten years: beyond any test, and far from the end of the calendar.
    if duration > Duration::from_hours(24 * 3650) {
        return Err(format!("{text:?} is longer than ten years; `never` is a value where it makes sense"));
    }
    Ok(duration)
}

fn unless_never(text: &str) -> Result<Option<Duration>, String> {
    match text.trim() {
        "never" | "forever" => Ok(None),
        text => duration(text).map(Some),
    }
}

fn exit_code(text: &str) -> Result<i32, String> {
    let code = text.trim().parse().ok().filter(|code| (0..=255).contains(code));
    code.ok_or_else(|| format!("{text:?} is not an exit code from 0 to 255"))
}

fn exit_codes(text: &str) -> Result<Vec<i32>, String> {
    text.split(',').map(exit_code).collect()
}

fn failure(text: &str) -> Result<Failure, String> {
    let (kind, times) = text.split_once(':').unwrap_or(("unavailable", text));
    let kind = match kind.trim() {
        "unavailable" => FailureKind::Unavailable,
        "exhausted" => FailureKind::Exhausted,
        "throttled" => FailureKind::Throttled,
        "denied" => FailureKind::Denied,
        "unexpected" => FailureKind::Unexpected,
        other => {
            return Err(format!(
                "{other:?} is not a failure; use unavailable, exhausted, throttled, denied or unexpected"
            ));
        }
    };
    let times = match times.trim() {
        "always" => u32::MAX,
        times => times.parse().map_err(|_| format!("{times:?} is not a number of failures, or `always`"))?,
    };
    Ok(Failure { kind, times })
}

fn number(text: &str, max: f64) -> Result<f64, String> {
    let value = text.trim().parse::<f64>().ok().filter(|value| (0.0..=max).contains(value));
    value.ok_or_else(|| format!("{text:?} is not a number from 0 to {max}"))
}

fn quantity(text: &str) -> Result<f64, String> {
    quantity::parse(text.trim()).ok_or_else(|| format!("{text:?} is not a quantity such as 250m or 64Mi"))
}

fn camel_case(text: &str) -> Result<String, String> {
    let fits = text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if fits { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a reason such as ErrImagePull")) }
}

fn field_path(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 256 && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a field such as spec.hostPID")) }
}

fn short(text: &str, max: usize) -> Result<String, String> {
    if text.len() <= max {
        Ok(text.to_owned())
    } else {
        Err(format!("{} bytes are more than the allowed {max}", text.len()))
    }
}
