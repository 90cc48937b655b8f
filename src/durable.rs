//! Directories that exist only when they are whole: written and synced under a temporary name, renamed, their parent synced.
//! What is not finished goes, now or with the next sweep. And files of ours, for those alone that may see them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::umask;

use crate::config::operation::Readers;

/// Prefix of directories that are not whole yet.
const STAGED: &str = ".staged-";

/// Prefix of directories that are on their way out.
const REMOVED: &str = ".removed-";

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}")]
pub struct DurableError {
    /// What was being done.
    pub doing: &'static str,
    /// To which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// The error of an operation on a path.
pub fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> DurableError {
    let path = path.to_owned();
    move |source| DurableError { doing, path: path.clone(), source }
}

/// A directory under its temporary name. Unless it is kept or installed, it goes when this does.
#[derive(Debug)]
pub struct StagedDirectory {
    root: PathBuf,
    name: String,
    path: PathBuf,
    readers: Readers,
    is_kept: bool,
}

impl StagedDirectory {
    /// Begins a directory of this name under `root`, which is made where it is missing. What is left of an earlier try goes.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn begin(root: &Path, name: &str, readers: Readers) -> Result<Self, DurableError> {
        if !root.exists() {
            make_directories(readers, root).map_err(failed("make", root))?;
            sync(root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        }
        let path = staged_path(root, name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
        make_directory(readers, &path).map_err(failed("make", &path))?;
        Ok(Self { root: root.to_owned(), name: name.to_owned(), path, readers, is_kept: false })
    }

    /// Makes a file in it.
    ///
    /// # Errors
    /// When it is there, or cannot be made.
    pub fn file(&self, name: &str) -> Result<File, DurableError> {
        let path = self.path.join(name);
        make_file(self.readers, &path).map_err(failed("make", &path))
    }

    /// Writes and syncs a file of it.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), DurableError> {
        let mut file = self.file(name)?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("write", &self.path.join(name)))
    }

    /// Leaves it, synced, under its temporary name: it is installed later, perhaps by another process.
    ///
    /// # Errors
    /// When it cannot be synced.
    pub fn keep(mut self) -> Result<(), DurableError> {
        sync(&self.path)?;
        sync(&self.root)?;
        self.is_kept = true;
        Ok(())
    }

    /// Gives it its name; where that is taken, by what was finished before, this one goes.
    ///
    /// # Errors
    /// When it cannot be synced or renamed.
    pub fn install(mut self) -> Result<PathBuf, DurableError> {
        sync(&self.path)?;
        let path = self.root.join(&self.name);
        if !path.exists() {
            fs::rename(&self.path, &path).map_err(failed("rename", &self.path))?;
            self.is_kept = true;
        }
        sync(&self.root)?;
        Ok(path)
    }
}

impl Drop for StagedDirectory {
    fn drop(&mut self) {
        // On a full disk it would be in the way of the next try.
        if !self.is_kept && self.path.exists() {
            remove_or_say(&self.path);
        }
    }
}

/// The temporary name of a directory.
pub fn staged_path(root: &Path, name: &str) -> PathBuf {
    root.join(format!("{STAGED}{name}"))
}

/// Gives a directory that was [kept](StagedDirectory::keep) its name. Does nothing when it has it already.
///
/// # Errors
/// When it is neither staged nor there, or cannot be renamed.
pub fn install(root: &Path, name: &str) -> Result<(), DurableError> {
    let (path, staged) = (root.join(name), staged_path(root, name));
    if !path.exists() {
        fs::rename(&staged, &path).map_err(failed("rename", &staged))?;
    }
    // Also when the name is there: the sync after the rename may have failed.
    sync(root)
}

/// Takes a directory away as one step, and removes it then.
///
/// # Errors
/// When it cannot be renamed or removed.
pub fn take_away(root: &Path, name: &str) -> Result<(), DurableError> {
    let (path, removed) = (root.join(name), root.join(format!("{REMOVED}{name}")));
    fs::rename(&path, &removed).map_err(failed("rename", &path))?;
    sync(root)?;
    fs::remove_dir_all(&removed).map_err(failed("remove", &removed))
}

/// Removes what was staged and never installed, but for the names that are known, and what is left of removals that were cut
/// short. What cannot be removed takes room, and does no other harm.
pub fn sweep(root: &Path, known: &[&str]) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let is_stray = name.strip_prefix(STAGED).is_some_and(|directory| !known.contains(&directory));
        if is_stray || name.starts_with(REMOVED) {
            remove_or_say(&entry.path());
        }
    }
}

/// Removes a directory, or a file, that nobody needs; says so if that is not possible.
pub fn remove_or_say(path: &Path) {
    let is_directory = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed {
        tracing::warn!("{} is of no use, and cannot be removed: {error}", path.display());
    }
}

/// Makes durable what a directory, or a file, has now.
///
/// # Errors
/// When it cannot be opened or synced.
pub fn sync(path: &Path) -> Result<(), DurableError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

/// From now on this process makes files and directories for their owner alone, unless it gives them to others: also those that
/// libraries make, in a directory that was made by somebody else.
pub fn keep_to_owner() {
    let others = Mode::RWXG | Mode::RWXO;
    let before = umask(others);
    umask(before | others);
}

/// Makes a directory that is not there yet. What the process's umask took away is given back.
///
/// # Errors
/// When it is there, or cannot be made.
pub fn make_directory(readers: Readers, path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(readers.directory_mode()).create(path)?;
    open_up(readers, path, readers.directory_mode())
}

/// Makes a directory and those above it where they are missing; one that is there stays as it is.
///
/// # Errors
/// When one cannot be made.
pub fn make_directories(readers: Readers, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directories(readers, parent)?;
    }
    match make_directory(readers, path) {
        // Somebody else has made it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// Makes a file that is not there yet: nothing is written through a link.
///
/// # Errors
/// When it is there, or cannot be made.
pub fn make_file(readers: Readers, path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(readers.file_mode()).open(path)?;
    open_up(readers, path, readers.file_mode())?;
    Ok(file)
}

fn open_up(readers: Readers, path: &Path, mode: u32) -> io::Result<()> {
    match readers {
        Readers::Owner => Ok(()),
        Readers::Group | Readers::All => fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_there_when_it_is_whole_and_leaves_nothing_when_it_never_becomes_so() {
        let root = tempfile::tempdir().expect("a directory of our own");
        let root = root.path().join("made");
        let names = || {
            let entries = fs::read_dir(&root).expect("it is there").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort_unstable();
            names
        };
        let given_up = StagedDirectory::begin(&root, "one", Readers::Owner).expect("the disk takes it");
        given_up.write("a", b"1").expect("the disk takes it");
        assert!(given_up.write("a", b"2").is_err(), "nothing is written over");
        drop(given_up);
        assert!(names().is_empty());
        let whole = StagedDirectory::begin(&root, "one", Readers::Owner).expect("the disk takes it");
        whole.write("a", b"1").expect("the disk takes it");
        assert_eq!(whole.install().expect("it is renamed"), root.join("one"));
        let kept = StagedDirectory::begin(&root, "two", Readers::Owner).expect("the disk takes it");
        kept.keep().expect("it is synced");
        assert_eq!(names(), [".staged-two", "one"]);
        install(&root, "two").expect("it is renamed");
        install(&root, "two").expect("it has its name already");
        assert!(install(&root, "three").is_err());
        let second = StagedDirectory::begin(&root, "one", Readers::Owner).expect("the disk takes it");
        second.install().expect("the first stays");
        assert!(root.join("one/a").exists());
        fs::create_dir(staged_path(&root, "stray")).expect("the disk takes it");
        take_away(&root, "two").expect("it goes");
        sweep(&root, &[]);
        assert_eq!(names(), ["one"]);
    }
}
