//! The scripted in-memory provider: reference implementation, test workhorse and load generator.
//!
//! ```text
//!  node ──▶ MockProvider ──▶ MockBackend ──▶ Pod (record) ── advance(now) ──▶ ObservedPod
//!           (connection)     (the cloud)      ▲                                  │
//!                             driver: one task, one ordered set of alarms        ▼
//!                                                                      watch streams, journal
//! ```
//!
//! A pod without a script runs at once and goes on until it is deleted; then it takes SIGTERM as a
//! well-behaved process does and exits with 0 at once. A pod that just runs costs a record and nothing
//! else: no task, no timer, no stored log.
//!
//! # Annotations
//!
//! All begin with `mock.virtual-kubelet.io/`. The same keys without it, under `defaults` in
//! [`MockConfig`], hold for every pod. Keys marked ᶜ concern containers: they hold for each container of
//! the pod, or, with `.<container>` appended (`mock.virtual-kubelet.io/exit-code.app`), for one, which is
//! stronger. A duration is `250ms`, `10s`, `1m30s` or `0`. Anything unknown or malformed is refused with
//! the annotation's path.
//!
//! | key | value | default | meaning |
//! |---|---|---|---|
//! | `sandbox-latency` | duration | `0` | from creation until the sandbox is ready |
//! | `start-latency` | duration | `0` | from then until the first container starts |
//! | `never-start` | reason, such as `ErrImagePull` | | containers wait for ever with this reason |
//! | `run-duration` ᶜ | duration, `forever` | `forever`; init containers, and with `exit-code`, `0` | how long a run takes |
//! | `exit-code` ᶜ | 0 to 255; `1,1,0` for run after run | `0` | how a run ends by itself |
//! | `oom-after` ᶜ | duration, `never` | `never` | a run ends with `OOMKilled`, 137 |
//! | `readiness-delay` ᶜ | duration | `0` | from the start of a run until it is ready |
//! | `termination-latency` ᶜ | duration, `never` | `0` | from SIGTERM to the exit; what exceeds the grace period is killed, 137 |
//! | `termination-exit-code` ᶜ | 0 to 255 | `0`, not reported | the exit code after SIGTERM |
//! | `termination-message` ᶜ | text, up to 4 KiB | | the termination message of every run |
//! | `log` ᶜ | text, up to 64 KiB | start, command, number of variables | the log's first lines |
//! | `log-rate` ᶜ | lines per second | `0` | further lines while it runs |
//! | `log-line-bytes` ᶜ | number up to 65536 | `0` | lines are filled up to this length |
//! | `log-stderr-every` ᶜ | number | `0` | each so manieth further line goes to standard error |
//! | `cpu-usage` ᶜ | quantity | 5m to 50m, by UID | processor use |
//! | `memory-usage` ᶜ | quantity | 16Mi to 64Mi, by UID | memory use |
//! | `pod-ip` | address | next of the range | the pod's address |
//! | `fail-create`, `fail-delete` | `3`, `exhausted:2`, `denied:always` | | the first calls fail: `unavailable` (default), `exhausted`, `throttled`, `denied`, `unexpected` |
//! | `reject-create` | a field's path | | creation is refused for good, because of this field |
//! | `evict-after` | duration, `never` | `never` | killed and reported as evicted |
//! | `disappear-after` | duration, `never` | `never` | lost at the backend without a trace |
//!
//! Restarts follow the pod's (and the containers') `restartPolicy` with a kubelet's back-off: at once, then after
//! 10 s, 20 s, 40 s, … up to 5 min. Init containers run in order, sidecars start before and stop after the
//! others. `activeDeadlineSeconds` and `preStop.sleep` are honoured; other hooks and all probes
//! succeed, the readiness probe after `readiness-delay`.
//!
//! A running pod that is deleted, and of whose end nothing is scripted (no `termination-…` key, no hook that takes
//! time), is gone at once, without a word on exit codes, as at many a backend: the node writes no last status then. With
//! such a key the containers' ends are reported, and written, as a kubelet does.
//!
//! # Exec, attach, port-forward
//!
//! Commands: `sh` (`-c` with `;`, `&&`, `||`, `>&2`, quotes and variables; or line by line), `echo`, `cat`, `env`,
//! `true`, `false`, `exit`, `sleep`, `hostname`, `ls`, `rm`, `touch`, `test`, `wc` (bytes), `tar` as `kubectl cp` calls it,
//! `stty size`, `resize` (prints every size of the window), and `bytes N` (N bytes, of which byte i is i mod 251).
//! Files live in memory, up to 512 MiB a container, and go with the pod. An attached client sees new lines of the
//! log, and its own input again; where the container has `stdin` and its command is `sh`, that shell runs for it, and
//! its end is the container's. A terminal shows what is typed, and knows the keys ^C, ^D and backspace. Containers
//! for debugging (`kubectl debug`) are added to pods that run. Every port that a running container declares answers HTTP: with the request line,
//! or with the body that was sent; other ports refuse.
//!
//! # Example
//!
//! ```
//! use vk_core::clock::Clock;
//! use vk_mock::{MockBackend, MockConfig, MockProvider};
//!
//! let config = MockConfig::default().with_default("run-duration", "5s")?;
//! let backend = MockBackend::new(config, Clock::system())?;
//! let provider = MockProvider::new(backend.clone(), "virtual-1");
//! // … run a node on the provider, then look at what it did:
//! assert_eq!(backend.ledger().started, 0);
//! # Ok::<(), vk_mock::ConfigError>(())
//! ```

pub use self::addresses::Cidr;
pub use self::backend::MockBackend;
pub use self::config::{Amount, ConfigError, Defaults, Latency, MockConfig, NodeCapacity, PerVerb};
pub use self::containers::MockContainers;
pub use self::fields::{fields, fields_of_containers};
pub use self::ledger::{Act, Entry, Ledger};
pub use self::provider::MockProvider;
pub use self::script::PREFIX;

mod addresses;
mod alarms;
mod backend;
mod config;
mod containers;
mod fields;
mod ids;
mod journal;
mod ledger;
mod logs;
mod pod;
mod provider;
mod quantity;
mod script;
mod streams;
mod time;
mod usage;
mod watch;
