//! The images there are.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use vk_core::containers::Image;
use vk_core::provider::{Error, Result};

use crate::config::ImageConfig;
use crate::reference;

/// The images of the settings, and which of them have been pulled.
#[derive(Debug)]
pub(crate) struct Images {
    known: BTreeMap<String, ImageConfig>,
    pulled: Mutex<HashSet<String>>,
}

impl Images {
    pub(crate) fn new(known: BTreeMap<String, ImageConfig>) -> Self {
        Self { known, pulled: Mutex::default() }
    }

    /// The image's settings.
    pub(crate) fn get(&self, name: &str) -> Option<&ImageConfig> {
        self.known.get(name)
    }

    /// The image, if it is on the node.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Image>> {
        reference::check(name).map_err(|reason| {
            // The kubelet's words.
            let what =
                format!("Failed to apply default image tag {name:?}: couldn't parse image name {name:?}");
            Error::rejected("image", format!("{what}: {reason}"))
        })?;
        let pulled = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        let here = self.known.get(name).filter(|image| !image.remote || pulled.contains(name));
        Ok(here.map(|image| describe(name, image)))
    }

    /// Pulls the image, if it is one that can be.
    pub(crate) fn pull(&self, name: &str) -> Result<Image> {
        if let Some(image) = self.find(name)? {
            return Ok(image);
        }
        let Some(image) = self.known.get(name) else {
            return Err(Error::unavailable(format!(
                "failed to pull and unpack image {name:?}: failed to resolve image: the process provider has no such \
                 image; it fetches nothing, and has those of its settings (images)"
            )));
        };
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(describe(name, image))
    }
}

fn describe(name: &str, image: &ImageConfig) -> Image {
    let mut found =
        Image::new(format!("sha256:{}", crate::run::hex(&[name, &image.folder.to_string_lossy()])));
    found.size = Some(size_of(&image.folder));
    found.user = Some(image.user.clone());
    found
}

/// Bytes in the files of a folder.
fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_of(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
