//! A link of a chain: a delta artefact, checked as far as it can be alone, and then on top of its parent. A server holds a
//! version, and makes the next of it; what it holds stays as it is.

use std::collections::BTreeMap;

use super::bytes::Bytes;
use super::delta::{DELTA, Delta, DeltaError, Digested, check_parent};
use super::manifest::{Kind, Manifest, ParentVersion, WeightsNote};
use super::reading::{ArtefactError, Checked, PROBES, Verified, by, check_files, check_precision, check_probes};
use super::servable::Servable;
use crate::feature::field::{Field, FieldSet};

/// What a link stands on, as far as it must agree with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Footing {
    /// Which version it is.
    pub version: ParentVersion,
    /// Its fields.
    fields: Vec<Field>,
    /// Deltas from its full version.
    chain: u32,
}

impl Footing {
    /// A version of this manifest, which has this digest.
    pub fn of(manifest: &Manifest, digest: &str) -> Self {
        let version = ParentVersion { version: manifest.version, manifest_digest: digest.to_owned() };
        let chain = manifest.weights.as_ref().map_or(0, |weights| weights.chain);
        Self { version, fields: manifest.fields.clone(), chain }
    }
}

/// A delta that is whole.
#[derive(Debug)]
pub struct ChainLink {
    /// What the version says of itself.
    pub manifest: Manifest,
    /// SHA-256 of its manifest.
    pub digest: String,
    /// What has changed.
    pub delta: Delta,
    /// What its manifest says of the weights, the link's place in the chain among it.
    weights: WeightsNote,
    fields: FieldSet,
    probes: Bytes,
}

/// Checks a delta from its files, as far as it can be checked without its parent: digests, tensors, fingerprints, journal.
///
/// # Errors
/// What is wrong first; a full version, which [`artefact::verify`](super::reading::verify) checks.
pub fn verify<B>(files: &BTreeMap<String, B>) -> Result<ChainLink, ArtefactError>
where
    B: AsRef<[u8]> + Clone + Into<Bytes>,
{
    let Checked { manifest, digest, fields } = check_files(files)?;
    let Some(weights) = manifest.weights.clone().filter(|_| manifest.kind == Kind::Delta) else {
        return Err(ArtefactError::IsFull(manifest.version));
    };
    let delta = Delta::from_bytes(&files[DELTA].clone().into(), fields.len(), &manifest.architecture)?;
    if delta.changed() as u64 != weights.rows {
        return Err(ArtefactError::Rows { found: delta.changed(), expected: weights.rows });
    }
    if delta.removed() as u64 != weights.removed {
        return Err(ArtefactError::Removed { found: delta.removed(), expected: weights.removed });
    }
    check_precision(delta.precision(), weights.precision)?;
    let probes = files[PROBES].clone().into();
    Ok(ChainLink { manifest, digest, delta, weights, fields, probes })
}

impl ChainLink {
    /// The version's weights from those that are at hand, with its probes reproduced: how many there are.
    ///
    /// # Errors
    /// When what is at hand is not the parent, or does not become the version.
    pub fn onto(&self, at: &Footing, parent: Digested<'_>) -> Result<(Servable, usize), ArtefactError> {
        let servable = self.weights(at, parent)?;
        let probes = check_probes(self.fields.clone(), &self.probes, self.weights.rounding, by(&servable))?;
        Ok((servable, probes))
    }

    /// The same without the probes, for whoever scores them in another way.
    ///
    /// # Errors
    /// When what is at hand is not the parent, has other fields or another place in the chain, or does not become the version.
    pub fn weights(&self, at: &Footing, parent: Digested<'_>) -> Result<Servable, ArtefactError> {
        check_parent(&self.manifest, &at.version)?;
        if self.manifest.fields != at.fields {
            return Err(DeltaError::Shape.into());
        }
        let (found, expected) = (self.weights.chain, at.chain.saturating_add(1));
        if found != expected {
            return Err(ArtefactError::Place { found, expected });
        }
        let servable = self.delta.apply(parent, self.weights.digest)?;
        if servable.rows() as u64 != self.manifest.rows {
            return Err(ArtefactError::Rows { found: servable.rows(), expected: self.manifest.rows });
        }
        Ok(servable)
    }

    /// The version from its parent.
    ///
    /// # Errors
    /// As [`onto`](Self::onto).
    pub fn apply(self, parent: &Verified) -> Result<Verified, ArtefactError> {
        let at = Footing::of(&parent.manifest, &parent.digest);
        let (servable, probes) = self.onto(&at, parent.digested())?;
        Ok(Verified { manifest: self.manifest, digest: self.digest, servable, probes })
    }
}

impl Verified {
    /// Which version it is.
    pub fn version(&self) -> ParentVersion {
        ParentVersion { version: self.manifest.version, manifest_digest: self.digest.clone() }
    }

    /// Its weights with their digest, which a manifest of before format 3 does not state.
    pub fn digested(&self) -> Digested<'_> {
        let stated = self.manifest.weights.as_ref().map(|weights| weights.digest);
        Digested { weights: &self.servable, digest: stated.unwrap_or_else(|| self.servable.digest()) }
    }
}
