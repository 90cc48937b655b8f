//! Disks that have little room, and a user who may not read everything.

use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// A small file system in memory, unmounted at the end.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` when that is not allowed here.
    pub(crate) fn mount(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory of our own");
        let mounted = Self(directory);
        mounted.mount_again(options).then_some(mounted)
    }

    pub(crate) fn mount_again(&self, options: &str) -> bool {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.path()).output();
        status.is_ok_and(|output| output.status.success())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the handles of a failed database are never closed.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// Does something as a user to whom the rights of files apply, which is what root is not. Threads that it starts are such users too.
pub(crate) fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let dropped = || {
        let mut own = capabilities(None).expect("they can be asked for");
        let root = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        own.effective.remove(root);
        own.permitted.remove(root);
        own.inheritable.remove(root);
        set_capabilities(None, own).expect("who has less takes nothing away");
        work()
    };
    thread::scope(|scope| scope.spawn(dropped).join().expect("it does not panic"))
}
