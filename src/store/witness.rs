//! The witness: two small files next to sled, written in turn and synced, that say which commit is the newest. sled can
//! come back empty or old without an error after a power cut; with the witness that is noticed.

use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::disk::Disk;

/// The two files.
pub(super) const NAMES: [&str; 2] = ["HEAD.a", "HEAD.b"];

/// A commit, as the witness knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Testimony {
    /// Its number.
    pub(super) commit: u64,
    /// The directory of sled that has it.
    pub(super) directory: String,
    /// The digest of its head, in hexadecimal.
    pub(super) digest: String,
}

/// What the newest witness file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Witness {
    /// How often the witness was written: the file of the larger number counts.
    pub(super) written: u64,
    /// The newest commit.
    pub(super) newest: Testimony,
    /// The commit before it in the same directory: what damage at the end of sled's log may leave.
    pub(super) before: Option<Testimony>,
    /// The last commit in the directory before.
    pub(super) other: Option<Testimony>,
    /// Databases up to this number were passed over when damage was found: they are no successors, whatever they hold.
    #[serde(default)]
    pub(super) passed_over: u64,
}

impl Witness {
    /// Whether nothing was committed since damage was found.
    pub(super) fn has_fallen_back(&self) -> bool {
        number(&self.newest.directory) <= Some(self.passed_over)
    }
}

/// The number in a database's name.
pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_prefix("base-")?.parse().ok()
}

/// Reads the newer of the two files that are whole.
///
/// # Errors
/// When a file could not be read for a reason that says nothing of what is in it, or neither could: that is no damage.
pub(super) fn read(disk: &dyn Disk) -> Result<Option<Witness>, StoreError> {
    let (mut found, mut failed) = (Vec::new(), None);
    for name in NAMES {
        match disk.read(name) {
            Ok(bytes) => found.extend(parse(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => {
                let error = StoreError::Io { doing: "read", path: disk.path(name), source };
                if error.is_of_the_world() {
                    return Err(error);
                }
                // The other file is as good as it is when this one is torn.
                failed = Some(error);
            }
        }
    }
    let newest = found.into_iter().max_by_key(|witness: &Witness| witness.written);
    newest.map_or_else(|| failed.map_or(Ok(None), Err), |witness| Ok(Some(witness)))
}

/// What a file says, if it is whole.
fn parse(bytes: Vec<u8>) -> Option<Witness> {
    let text = String::from_utf8(bytes).ok()?;
    let (document, sum) = text.trim_end().rsplit_once('\n')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (crc32c::crc32c(document.as_bytes()) == sum).then(|| serde_json::from_str(document).ok())?
}

/// Writes the file that was not written last.
pub(super) fn write(disk: &dyn Disk, witness: &Witness) -> Result<(), StoreError> {
    let name = NAMES[usize::from(witness.written % 2 == 1)];
    let document = serde_json::to_string(witness).expect("names and numbers always encode");
    let text = format!("{document}\n{:08x}\n", crc32c::crc32c(document.as_bytes()));
    disk.write(name, text.as_bytes())?;
    disk.sync(name)?;
    disk.sync_names()
}
