//! How many files and connections the process may have open.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Below this many the kubelet API's own limit on connections is not the first one to be met.
const ENOUGH: rlim_t = 4096;

/// Raises the soft limit to the hard one, as every Go program does when it starts: the soft one is low for the
/// sake of programs that use `select`. A note, if what there is does not suffice.
pub(crate) fn raise() -> Option<String> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let wanted = hard.min(1 << 20).max(soft);
    let have = match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => wanted,
        Err(_) => soft,
    };
    (have < ENOUGH).then(|| {
        format!(
            "only {have} files and connections may be open at once: raise the limit (ulimit -Hn) to {ENOUGH}"
        )
    })
}
