//! The process: as Prometheus' client libraries report it, from `/proc`.

use std::fmt;
use std::sync::LazyLock;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// When this process began, or, where that cannot be found out, when it was first asked.
pub(crate) static START: LazyLock<Timestamp> = LazyLock::new(|| started().unwrap_or_else(Timestamp::now));

pub(super) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(Process));
    let build =
        Info::new(vec![("git_version", concat!("v", env!("CARGO_PKG_VERSION"))), ("platform", PLATFORM)]);
    registry.register("vk_build", "What was built", build);
}

const PLATFORM: &str = std::env::consts::OS;

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let start = START.as_duration().as_secs_f64();
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            Some(start),
        )?;
        let memory = statm();
        gauge(
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
            memory.map(|(_, resident)| resident),
        )?;
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", memory.map(|(all, _)| all))?;
        gauge("process_open_fds", "Number of open file descriptors.", open_files())?;
        gauge("process_max_fds", "Maximum number of open file descriptors.", most_files())?;
        if let Some(seconds) = processor_time() {
            let counter = ConstCounter::new(seconds);
            let help = "Total user and system CPU time spent in seconds.";
            let kind = counter.metric_type();
            counter.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, kind)?)?;
        }
        Ok(())
    }
}

/// Kernel ticks per second in `/proc`, the same on every architecture of Linux.
const TICKS: f64 = 100.0;
/// Bytes of a page in `/proc/self/statm`, where nothing says otherwise.
const PAGE: f64 = 4096.0;

/// Field `n` of `/proc/self/stat`, counted from 1 as in proc(5).
fn stat(n: usize) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, with whatever is in it.
    let rest = text.rsplit_once(')')?.1;
    rest.split_whitespace().nth(n.checked_sub(3)?)?.parse().ok()
}

fn started() -> Option<Timestamp> {
    let ticks = stat(22)?;
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_millisecond(((boot + ticks / TICKS) * 1000.0) as i64).ok()
}

fn processor_time() -> Option<f64> {
    Some((stat(14)? + stat(15)?) / TICKS)
}

fn statm() -> Option<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split_whitespace().map(str::parse::<f64>);
    Some((pages.next()?.ok()? * PAGE, pages.next()?.ok()? * PAGE))
}

fn open_files() -> Option<f64> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

fn most_files() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
