//! How much memory there is: that of the machine, or less where a container is held to less.

use std::fs;
use std::path::Path;

/// The memory that this process may use, in bytes; `None` where the system does not say.
pub fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    [machine].into_iter().chain(limits(&own)).flatten().min()
}

/// `MemTotal` of `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The limits of this process's control groups (version 2, then 1). "max" is none.
fn limits(own: &str) -> Vec<Option<u64>> {
    let groups = own.lines().filter_map(|line| line.rsplit(':').next());
    let second = groups.map(|group| format!("/sys/fs/cgroup{}/memory.max", group.trim_end_matches('/')));
    let paths =
        second.chain(["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].map(str::to_owned));
    paths.map(|path| fs::read_to_string(Path::new(&path)).ok()?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_how_much_memory_it_has() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24689012 kB\n"), Some(24_689_012 * 1024));
        assert_eq!(total("MemTotal: much\n"), None);
        assert!(memory_bytes().is_none_or(|bytes| bytes > 1 << 20));
    }
}
