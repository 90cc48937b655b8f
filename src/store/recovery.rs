//! Which checkpoint to go on from: the newest that is whole, held against what the witness knows.
//!
//! Looked for in this order: a commit that the witness does not know of yet, since a crash came between; the one it knows;
//! those before it in the same database, while their layers are whole; the last one of the database before. What was
//! acknowledged is in the witness, so a commit that it does not know of may be passed over, and nothing else in silence.

use super::directory::{Directory, Head};
use super::disk::Disk;
use super::sled_disk::is_of_the_world;
use super::stage::{AtStage, Stage};
use super::witness::{Testimony, Witness};
use super::{Saved, StoreError};
use deepfm_core::checkpoint::Layer;

/// A checkpoint that was found, with the database that has it.
pub(super) struct Found {
    pub(super) saved: Saved,
    pub(super) name: String,
    pub(super) directory: Directory,
    pub(super) head: Head,
}

/// Why there is no checkpoint to go on from.
pub(super) enum Fault {
    /// Something is not as it was written.
    Damage(String),
    /// The disk is full, read-only or the like: what is on it may be whole, and is not passed over.
    World(StoreError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        if is_of_the_world(&error) { Self::World(error) } else { Self::Damage(text(&error)) }
    }
}

/// Looks for the checkpoint to go on from; `names` are the databases, the newest first. `None` when there never was one.
///
/// # Errors
/// What is wrong, when there was one and none is whole.
pub(super) fn find(
    disk: &dyn Disk,
    names: &[String],
    witness: Option<&Witness>,
    at_stage: AtStage,
) -> Result<Option<Found>, Fault> {
    let known = witness.map_or(0, |witness| witness.newest.commit);
    let mut faults: Vec<String> = Vec::new();
    if let Some(Witness { newest, passed_over, .. }) = witness {
        if !names.contains(&newest.directory) {
            faults.push(format!("{} is gone", newest.directory));
        }
        // Nothing was committed since; whoever started then may not have lived to say it.
        if number(&newest.directory) <= Some(*passed_over) {
            faults.push(format!("an earlier start fell back to checkpoint {known}"));
        }
    }
    for name in names {
        let expected = expectation(name, witness);
        if matches!(expected, Expectation::Nothing) {
            continue;
        }
        match candidate(disk, name, &expected, known, at_stage) {
            Ok(None) => {}
            Ok(Some((mut found, fault))) => {
                faults.extend(fault);
                if !faults.is_empty() {
                    found.saved.fell_back = Some(faults.join("; "));
                }
                return Ok(Some(found));
            }
            Err(Fault::World(error)) => return Err(Fault::World(error)),
            // A database that the witness does not know of holds nothing that was acknowledged.
            Err(Fault::Damage(_)) if matches!(expected, Expectation::Successor) && known > 0 => {}
            Err(Fault::Damage(fault)) => faults.push(format!("{name}: {fault}")),
        }
    }
    if known > 0 {
        faults.push(format!("the witness knows checkpoint {known}, and none that is whole was found"));
    }
    if faults.is_empty() { Ok(None) } else { Err(Fault::Damage(faults.join("; "))) }
}

/// What the witness says of a database.
enum Expectation<'w> {
    /// It is the newest it knows, with the commit before it there.
    Newest(&'w Testimony, Option<&'w Testimony>),
    /// It is the one before, or what was fallen back to: it has taken no commit since.
    Closed(&'w Testimony),
    /// It is newer than the witness: a commit into a fresh database that a crash cut short.
    Successor,
    /// It is none of these, and to be removed.
    Nothing,
}

fn expectation<'w>(name: &str, witness: Option<&'w Witness>) -> Expectation<'w> {
    let Some(Witness { newest, before, other, passed_over, .. }) = witness else {
        return Expectation::Successor;
    };
    match other {
        _ if newest.directory == name && number(name) <= Some(*passed_over) => Expectation::Closed(newest),
        _ if newest.directory == name => Expectation::Newest(newest, before.as_ref()),
        Some(other) if other.directory == name => Expectation::Closed(other),
        _ if number(name) > number(&newest.directory).max(Some(*passed_over)) => Expectation::Successor,
        _ => Expectation::Nothing,
    }
}

/// The number in a database's name.
pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_prefix("base-")?.parse().ok()
}

/// The newest whole checkpoint of a database that fits what is expected of it, and what is wrong with newer ones.
fn candidate(
    disk: &dyn Disk,
    name: &str,
    expected: &Expectation<'_>,
    known: u64,
    at_stage: AtStage,
) -> Result<Option<(Found, Option<String>)>, Fault> {
    let mut directory = Directory::open(disk, name)?;
    at_stage(Stage::Opened)?;
    let Some(head) = directory.head()? else {
        return match expected {
            // A fresh database without a commit: a merge or a commit was cut short.
            Expectation::Successor => Ok(None),
            Expectation::Newest(..) | Expectation::Closed(_) | Expectation::Nothing => {
                Err(Fault::Damage("it is empty".to_owned()))
            }
        };
    };
    let testified = |testimony: &Testimony| {
        head.at(testimony.commit)
            .filter(|at| at.digest() == testimony.digest)
            .ok_or_else(|| format!("{name} is at checkpoint {}, the witness knows {}", head.commit(), testimony.commit))
    };
    let mut older = None;
    let head = match expected {
        Expectation::Newest(newest, before) => match (testified(newest), before) {
            (Ok(_), _) => head,
            (Err(fault), Some(before)) if head.commit() == before.commit => {
                older = Some(fault);
                testified(before).map_err(Fault::Damage)?
            }
            (Err(fault), _) => return Err(Fault::Damage(fault)),
        },
        Expectation::Closed(testimony) => testified(testimony).map_err(Fault::Damage)?,
        Expectation::Successor if known == 0 && head.layers.len() > 1 => {
            let reason = format!("it is at checkpoint {}, and there is no witness of any", head.commit());
            return Err(Fault::Damage(reason));
        }
        Expectation::Successor if head.commit() > known => head,
        Expectation::Successor | Expectation::Nothing => return Ok(None),
    };
    let (layers, fault) = whole_layers(&mut directory, &head)?;
    if layers.is_empty() {
        return Err(Fault::Damage(fault.unwrap_or_default()));
    }
    let fault = older.or(fault);
    let head = Head { layers: head.layers[..layers.len()].to_vec() };
    let saved = Saved { commit: head.commit(), layers, fell_back: None };
    Ok(Some((Found { saved, name: name.to_owned(), directory, head }, fault)))
}

/// The layers from the base up to the first that is damaged.
fn whole_layers(directory: &mut Directory, head: &Head) -> Result<(Vec<Layer>, Option<String>), Fault> {
    let mut layers = Vec::new();
    for layer in &head.layers {
        match directory.read(layer).map_err(Fault::from) {
            Ok(layer) => layers.push(layer),
            Err(Fault::Damage(reason)) => return Ok((layers, Some(reason))),
            Err(Fault::World(error)) => return Err(Fault::World(error)),
        }
    }
    Ok((layers, None))
}

/// An error and its cause in one line.
pub(super) fn text(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}
