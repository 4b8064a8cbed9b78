//! Who a container's command runs as.

use std::fs;
use std::path::Path;

use vk_core::containers::ContainerSpec;
use vk_core::provider::{Error, Result};

use crate::config::ImageConfig;

/// Ids and home of a command's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

impl User {
    /// The user of a container: the pod's wish, else the image's.
    pub(crate) fn of(spec: &ContainerSpec, image: &ImageConfig) -> Result<Self> {
        let (wanted, wanted_group) = image
            .user
            .split_once(':')
            .map_or((image.user.as_str(), None), |(user, group)| (user, Some(group)));
        let wanted = match spec.user {
            Some(id) => id.to_string(),
            None if wanted.is_empty() => "0".to_owned(),
            None => wanted.to_owned(),
        };
        let passwd = fs::read_to_string(image.folder.join("etc/passwd")).unwrap_or_default();
        let entry = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 6 && (fields[0] == wanted || fields[2] == wanted));
        let unknown = || {
            Error::unexpected(format!(
                "failed to create the container: unable to find user {wanted}: no matching entries in passwd file"
            ))
        };
        let number = |text: &str| text.parse::<u32>().ok();
        let uid = number(&wanted)
            .or_else(|| entry.as_ref().and_then(|fields| number(fields[2])))
            .ok_or_else(unknown)?;
        let of_image = || match wanted_group {
            Some(group) if spec.user.is_none() => group_id(&image.folder, group),
            _ => entry.as_ref().and_then(|fields| number(fields[3])),
        };
        let gid = spec.group.and_then(|id| u32::try_from(id).ok()).or_else(of_image).unwrap_or(0);
        let mut groups = vec![gid];
        for id in spec.supplemental_groups.iter().filter_map(|id| u32::try_from(*id).ok()) {
            if !groups.contains(&id) {
                groups.push(id);
            }
        }
        let home = entry.map_or("/", |fields| fields[5]).to_owned();
        Ok(Self { uid, gid, groups, home })
    }
}

fn group_id(folder: &Path, name: &str) -> Option<u32> {
    if let Ok(id) = name.parse() {
        return Some(id);
    }
    let groups = fs::read_to_string(folder.join("etc/group")).ok()?;
    let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields.len() >= 3 && fields[0] == name)?[2].parse().ok()
}
