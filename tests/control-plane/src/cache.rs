//! Where built binaries, tools and running instances are kept: outside the tree, shared by all clones.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Overrides the cache folder.
pub const CACHE: &str = "VK_CACHE";

/// The cache folder: `$VK_CACHE`, else `$XDG_CACHE_HOME/rust-virtual-kubelet`, else
/// `~/.cache/rust-virtual-kubelet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache the environment names. Fails when none of the three variables is set.
    pub fn from_env() -> Result<Self> {
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self::choose(set(CACHE), set("XDG_CACHE_HOME"), set("HOME")).with_context(|| {
            format!(
                "no place for the cache: set {CACHE}, XDG_CACHE_HOME or HOME to a folder that can be written"
            )
        })
    }

    /// A cache at a folder of the caller's choice.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn choose(own: Option<PathBuf>, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<Self> {
        let root = own
            .or_else(|| xdg.map(|base| base.join("rust-virtual-kubelet")))
            .or_else(|| home.map(|base| base.join(".cache/rust-virtual-kubelet")))?;
        Some(Self { root })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Built components, one folder for each pin.
    #[must_use]
    pub fn components(&self) -> PathBuf {
        self.root.join("control-plane")
    }

    /// State of running instances, one folder for each.
    #[must_use]
    pub fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    /// Toolchains and tools installed by the chores.
    #[must_use]
    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }
}

/// A 64-bit FNV-1a hash in hex over parts, each closed by its length so that no two lists of parts collide by
/// concatenation. Stable for ever, unlike the standard library's hasher: it names folders on disk.
#[must_use]
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |byte: u8| {
        hash ^= u64::from(byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    };
    for part in parts {
        part.iter().copied().for_each(&mut add);
        (part.len() as u64).to_le_bytes().into_iter().for_each(&mut add);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_projects_own_variable_wins_over_the_general_ones() {
        let path = |text: &str| Some(PathBuf::from(text));
        let root = |own, xdg, home| Cache::choose(own, xdg, home).map(|cache| cache.root);
        assert_eq!(root(path("/own"), path("/xdg"), path("/home")), path("/own"));
        assert_eq!(root(None, path("/xdg"), path("/home")), path("/xdg/rust-virtual-kubelet"));
        assert_eq!(root(None, None, path("/home")), path("/home/.cache/rust-virtual-kubelet"));
        assert_eq!(root(None, None, None), None);
    }

    #[test]
    fn a_fingerprint_tells_how_the_parts_were_split() {
        let of = |parts: &[&str]| fingerprint(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["ab"]), of(&["ab", ""]));
        assert_eq!(of(&[]), "cbf29ce484222325");
    }
}
