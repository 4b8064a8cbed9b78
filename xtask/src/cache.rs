//! The cache folder outside the tree: the same that `vk_control_plane::cache` finds. Said again here, so that
//! this package needn't compile that one's dependencies.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// `$VK_CACHE`, else `$XDG_CACHE_HOME/rust-virtual-kubelet`, else `~/.cache/rust-virtual-kubelet`.
pub(crate) fn folder() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("VK_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("rust-virtual-kubelet")))
        .or_else(|| set("HOME").map(|base| base.join(".cache/rust-virtual-kubelet")))
        .context(
            "no place for the cache: set VK_CACHE, XDG_CACHE_HOME or HOME to a folder that can be written",
        )
}

/// A short name for this clone, to tell its running instances from another clone's (FNV-1a over its path).
pub(crate) fn name_of(clone: &Path) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in clone.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clones_have_two_names() {
        assert_ne!(name_of(Path::new("/a")), name_of(Path::new("/b")));
        assert_eq!(name_of(Path::new("/a")), name_of(Path::new("/a")));
    }
}
