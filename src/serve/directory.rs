//! Versions of a directory, without Kafka: looked at again and again. It has no aliases; the newest is followed, or one is pinned.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use deepfm_core::version::names;

use super::follower::{Notice, Offer};

/// Where notices come from.
pub(super) trait Notices: Send {
    /// Waits for news, at most for `patience` and until the thread is unparked, and tells them.
    fn poll(&mut self, patience: Duration, tell: &mut dyn FnMut(Notice));

    /// What keeps news away now, if something does.
    fn trouble(&self) -> Option<&str>;
}

/// A directory of versions.
#[derive(Debug)]
pub(super) struct Listing {
    root: PathBuf,
    poll: Duration,
    /// What was offered, by number.
    offered: BTreeMap<u64, String>,
    was_read: bool,
    trouble: Option<String>,
}

impl Listing {
    pub(super) fn of(root: PathBuf, poll: Duration) -> Self {
        Self { root, poll, offered: BTreeMap::new(), was_read: false, trouble: None }
    }

    /// The directories of versions, by number.
    fn list(&self) -> std::io::Result<BTreeMap<u64, Vec<String>>> {
        let mut found = BTreeMap::<u64, Vec<String>>::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(version) = names::number_of_directory(&name) {
                found.entry(version).or_default().push(name);
            }
        }
        Ok(found)
    }

    fn tell_found(&mut self, mut found: BTreeMap<u64, Vec<String>>, tell: &mut dyn FnMut(Notice)) {
        self.offered.retain(|version, directory| {
            let is_there = found.get(version).is_some_and(|directories| directories.contains(directory));
            if !is_there {
                tell(Notice::Withdrawn(*version));
            }
            is_there
        });
        for (version, directories) in &mut found {
            directories.sort_unstable();
            let known = self.offered.get(version);
            match &directories[..] {
                [directory] if known.is_none() => {
                    tell(Notice::Offered(Offer { version: *version, directory: directory.clone(), announced: None }));
                    self.offered.insert(*version, directory.clone());
                }
                [_] => {}
                several => {
                    // Which of them is the worker's nobody can tell here, unless one was there before.
                    for directory in several.iter().filter(|directory| known != Some(directory)) {
                        let reason = format!("{} directories have number {version}", several.len());
                        tell(Notice::Disbelieved { version: *version, directory: directory.clone(), reason });
                    }
                }
            }
        }
    }
}

impl Notices for Listing {
    fn poll(&mut self, patience: Duration, tell: &mut dyn FnMut(Notice)) {
        if self.was_read || self.trouble.is_some() {
            thread::park_timeout(patience.min(self.poll));
        }
        match self.list() {
            Ok(found) => {
                self.trouble = None;
                self.tell_found(found, tell);
                if !self.was_read {
                    tell(Notice::CaughtUp);
                }
                self.was_read = true;
            }
            Err(error) => {
                let trouble = format!("cannot list {}: {error}", self.root.display());
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!("{trouble}");
                }
                self.trouble = Some(trouble);
            }
        }
    }

    fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}
