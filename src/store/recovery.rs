//! Finding the checkpoint to go on from: the databases are opened and read as the [choice](super::choice) asks for it.

use std::collections::BTreeMap;

use super::choice::{Choice, Finding, Taken, choose};
use super::database::{Database, Head};
use super::disk::Disk;
use super::stage::{AtStage, Stage};
use super::witness::Witness;
use super::{Saved, StoreError};
use deepfm_core::checkpoint::Layer;

/// A checkpoint that was found, with the database that has it.
pub(super) struct Found {
    pub(super) saved: Saved,
    pub(super) name: String,
    pub(super) database: Database,
    pub(super) head: Head,
    /// The largest commit that was found, whether it is gone on from or not: none after it may be mistaken for it.
    pub(super) tried: u64,
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
        if error.is_of_the_world() { Self::World(error) } else { Self::Damage(error.text()) }
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
    let (mut findings, mut opened) = (BTreeMap::new(), BTreeMap::new());
    // What was read of a database before its damage: that may have left it unusable, so that it is not read again.
    let mut before_damage = None;
    loop {
        match choose(witness, names, &findings) {
            Choice::Fresh => return Ok(None),
            Choice::Lost(faults) => return Err(Fault::Damage(faults.join("; "))),
            Choice::Look(name) => {
                let finding = match open(disk, &name, at_stage) {
                    Ok((_, None)) => Finding::Empty,
                    Ok((database, Some(head))) => {
                        opened.insert(name.clone(), database);
                        Finding::At(head)
                    }
                    Err(Fault::Damage(reason)) => Finding::Damaged(reason),
                    Err(error) => return Err(error),
                };
                findings.insert(name, finding);
            }
            Choice::Take(Taken { name, head, faults }) => {
                let database = opened.get_mut(&name).expect("only a database that was looked into is taken");
                let (mut layers, fault) = match before_damage.take() {
                    Some((of, layers)) if of == name => (layers, None),
                    _ => whole_layers(database, &head)?,
                };
                if let Some(reason) = fault {
                    tracing::warn!("{name}: {reason}");
                    if let Some(Finding::At(head) | Finding::Torn { head, .. }) = findings.remove(&name) {
                        findings.insert(name.clone(), Finding::Torn { head, whole: layers.len(), reason });
                    }
                    before_damage = Some((name, layers));
                    continue;
                }
                layers.truncate(head.layers.len());
                let fell_back = (!faults.is_empty()).then(|| faults.join("; "));
                let saved = Saved { commit: head.commit(), layers, fell_back };
                let database = opened.remove(&name).expect("it was just read");
                let heads = findings.values().filter_map(|finding| match finding {
                    Finding::At(head) | Finding::Torn { head, .. } => Some(head.commit()),
                    Finding::Empty | Finding::Damaged(_) => None,
                });
                let tried = heads.max().unwrap_or_default();
                return Ok(Some(Found { saved, name, database, head, tried }));
            }
        }
    }
}

fn open(disk: &dyn Disk, name: &str, at_stage: AtStage) -> Result<(Database, Option<Head>), Fault> {
    let mut database = Database::open(disk, name)?;
    at_stage(Stage::Opened)?;
    let head = database.head()?;
    Ok((database, head))
}

/// The layers from the base up to the first that is damaged.
fn whole_layers(database: &mut Database, head: &Head) -> Result<(Vec<Layer>, Option<String>), Fault> {
    let mut layers = Vec::new();
    for layer in &head.layers {
        match database.read(layer).map_err(Fault::from) {
            Ok(layer) => layers.push(layer),
            Err(Fault::Damage(reason)) => return Ok((layers, Some(reason))),
            Err(Fault::World(error)) => return Err(Fault::World(error)),
        }
    }
    Ok((layers, None))
}
