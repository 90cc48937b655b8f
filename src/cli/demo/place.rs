//! Where a demo keeps its files: a fresh directory of its own in the temporary folder, which others may write to as well, or the
//! one that it is given. It writes through no link, and gives up no state that is not a demo's.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use deepfm_stream::bounded::{self, Length};
use deepfm_stream::config::operation::Readers;
use deepfm_stream::durable;

use super::super::failure::{Exit, Failure, OrExit};
use super::{ARTEFACTS, CONFIGURATION, STATE};

/// The first line of a demo's configuration: by it a directory is known to be a demo's.
pub(super) const MARK: &str = "# Written by `deepfm demo`.\n";

/// The longest configuration that is looked at, in bytes.
const CONFIGURATION_BYTES_MAX: u64 = 1 << 20;

/// How often a name is tried that somebody else has taken.
const TRIES: u64 = 100;

/// A directory that was not there before, under a name that nobody could foresee, for this user alone.
pub(super) fn scratch() -> Result<PathBuf, Failure> {
    scratch_in(&std::env::temp_dir())
        .or_exit_with(Exit::Disk, format!("cannot make a directory in {}", std::env::temp_dir().display()))
}

fn scratch_in(root: &Path) -> io::Result<PathBuf> {
    let mut tried = Err(io::Error::from(ErrorKind::AlreadyExists));
    for number in 0..TRIES {
        // Keyed anew by the operating system's randomness.
        let path = root.join(format!("deepfm-demo-{:016x}", RandomState::new().hash_one(number)));
        tried = durable::make_directory(Readers::Owner, &path).map(|()| path);
        if !matches!(&tried, Err(error) if error.kind() == ErrorKind::AlreadyExists) {
            break;
        }
    }
    tried
}

/// The directory that was asked for, which is empty or an earlier demo's.
pub(super) fn given(directory: &Path) -> Result<(), Failure> {
    durable::make_directories(Readers::Owner, directory)
        .or_exit_with(Exit::Disk, format!("cannot make {}", directory.display()))?;
    let refused = |problem: &str| Err(Failure::usage(anyhow::anyhow!("{}: {problem}", directory.display())));
    let there = |name: &str| directory.join(name).symlink_metadata().ok();
    for name in [STATE, ARTEFACTS, CONFIGURATION] {
        if there(name).is_some_and(|metadata| metadata.is_symlink()) {
            return refused(&format!("{name} is a link, and the demo writes through none"));
        }
    }
    let is_in_use = [STATE, CONFIGURATION].iter().any(|name| there(name).is_some());
    let configuration = bounded::read(&directory.join(CONFIGURATION), Length::AtMost(CONFIGURATION_BYTES_MAX));
    let is_a_demos = configuration.is_ok_and(|text| text.starts_with(MARK.as_bytes()));
    if is_in_use && !is_a_demos {
        return refused("it holds a state or a configuration that is not a demo's: give another --dir");
    }
    Ok(())
}

/// Writes the configuration, in place of an earlier demo's.
pub(super) fn write_configuration(directory: &Path, text: &str) -> Result<PathBuf, Failure> {
    let path = directory.join(CONFIGURATION);
    let written = match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => durable::make_file(Readers::Owner, &path).and_then(|mut file| file.write_all(text.as_bytes())),
    };
    written.or_exit_with(Exit::Disk, format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_demo_has_a_directory_of_its_own_that_nobody_made_for_it() {
        let root = tempfile::tempdir().expect("a directory of our own");
        let (one, other) = (scratch_in(root.path()).expect("it is new"), scratch_in(root.path()).expect("it is new"));
        assert_ne!(one, other);
        assert_eq!(fs::metadata(&one).expect("it is there").permissions().mode() & 0o777, 0o700);
        assert!(scratch_in(&root.path().join("missing")).is_err());
    }

    #[test]
    fn a_demo_writes_through_no_link_and_gives_up_no_state_of_others() {
        let root = tempfile::tempdir().expect("a directory of our own");
        let precious = root.path().join("precious");
        fs::write(&precious, "precious").expect("the disk takes it");
        for name in [STATE, ARTEFACTS, CONFIGURATION] {
            let directory = root.path().join(format!("linked-{name}"));
            fs::create_dir(&directory).expect("the disk takes it");
            symlink(&precious, directory.join(name)).expect("the disk takes it");
            assert!(given(&directory).is_err(), "{name}");
        }
        let foreign = root.path().join("foreign");
        fs::create_dir_all(foreign.join(STATE)).expect("the disk takes it");
        assert!(given(&foreign).is_err(), "a state without a demo's configuration");
        fs::write(foreign.join(CONFIGURATION), "[model]\n").expect("the disk takes it");
        assert!(given(&foreign).is_err(), "a configuration of somebody");
        let own = root.path().join("a/b");
        given(&own).expect("it is new");
        write_configuration(&own, MARK).expect("the disk takes it");
        fs::create_dir(own.join(STATE)).expect("the disk takes it");
        given(&own).expect("it is a demo's");
        write_configuration(&own, MARK).expect("the disk takes it");
        // A link that comes in between is replaced, and not written through.
        fs::remove_file(own.join(CONFIGURATION)).expect("it is ours");
        symlink(&precious, own.join(CONFIGURATION)).expect("the disk takes it");
        write_configuration(&own, MARK).expect("the disk takes it");
        assert_eq!(fs::read_to_string(&precious).expect("it is there"), "precious");
    }
}
