//! From the directory of a version to a model that is ready to score: every check comes before anybody scores with it.
//!
//! First the manifest, by its digest; then sizes and SHA-256 of all files that it names; fingerprints, shapes and values; at last the
//! probes, scored by the same code that answers requests. Everything in the directory may have been written by anybody.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use deepfm_core::feature::encoder::Encoder;
use deepfm_core::feature::field::Field;
use deepfm_core::model::weights::WeightsDigest;
use deepfm_core::version::artefact::{self, ArtefactError, MANIFEST, MODEL, PROBES};
use deepfm_core::version::bytes::Bytes;
use deepfm_core::version::delta::{DeltaError, Digested};
use deepfm_core::version::link::{self, ChainLink};
use deepfm_core::version::manifest::{Kind, MANIFEST_BYTES_MAX, Manifest, ParentVersion, sha256};
use deepfm_core::version::names;
use deepfm_core::version::scoring::{Scoring, ScoringWork};
use deepfm_core::version::servable::Servable;
use xxhash_rust::xxh3::xxh3_64;

use super::follower::{LoadFailure, Offer};
use super::mapped;
use super::model::ServedModel;
use super::state::{LoadStage, VersionState};
use super::target::FollowOptions;
use crate::bounded::{self, Length, ReadError};

/// A version that is not served.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "fields of errors say it by name and type")]
pub enum LoadError {
    /// A file cannot be read, or is none.
    #[error("{file}: {source}")]
    Read { file: String, source: ReadError },
    /// It is not what it says.
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    /// Its manifest is not the one that was announced.
    #[error("its manifest has digest {found}, {expected} was announced")]
    Digest { found: String, expected: String },
    /// It is of another model.
    #[error("it is a version of model {0:?}")]
    OtherModel(String),
    /// It has another number.
    #[error("it is version {found}, {expected} was announced")]
    Number { found: u64, expected: u64 },
    /// Its manifest names another parent than its announcement.
    #[error("its manifest and its announcement name different parents")]
    Parent,
    /// It is not what this server was told to serve.
    #[error("its {what} fingerprint is {found}, this server is to serve {expected}")]
    Required { what: &'static str, found: String, expected: String },
}

impl LoadError {
    /// Whether it may go away by itself.
    fn is_transient(&self) -> bool {
        matches!(self, Self::Read { source: ReadError::Io(_) | ReadError::Missing, .. })
    }

    /// A file that is not there or cannot be read was not fetched; one that is not what it should be was.
    fn found(self) -> LoadFailure {
        let stage = if self.is_transient() { LoadStage::Fetching } else { LoadStage::Verifying };
        self.at(stage)
    }

    fn at(self, stage: LoadStage) -> LoadFailure {
        let mut reason = self.to_string();
        let mut cause = std::error::Error::source(&self);
        while let Some(error) = cause {
            let said = error.to_string();
            if !reason.contains(&said) {
                reason = format!("{reason}: {said}");
            }
            cause = error.source();
        }
        LoadFailure { stage, reason, is_transient: self.is_transient() }
    }
}

/// Loads a version; `note` hears how far it is. A full version stands alone. A delta is applied to `held`, the version served
/// now, if it stands on that; else to the versions that it stands on, which lie beside it, down to a full one. Each of them is
/// checked like the version itself, but for its probes: it is never served.
///
/// # Errors
/// Where it failed, and why.
pub(super) fn load(
    root: &Path,
    offer: &Offer,
    options: &FollowOptions,
    held: Option<&ServedModel>,
    note: &mut dyn FnMut(VersionState),
) -> Result<ServedModel, LoadFailure> {
    let (bytes, digest) = read_manifest(&root.join(&offer.directory), offer).map_err(LoadError::found)?;
    let manifest = check_manifest(&bytes, offer, options).map_err(|error| error.at(LoadStage::Verifying))?;
    let fields =
        artefact::check_fingerprints(&manifest).map_err(|error| LoadError::from(error).at(LoadStage::Verifying))?;
    let place = root.join(&offer.directory);
    let mut files = read_files(&place, &manifest).map_err(LoadError::found)?;
    files.insert(MANIFEST.to_owned(), bytes.into());
    let probes = files.get(PROBES).cloned().unwrap_or_else(|| Bytes::from(Vec::new()));
    let rounding = manifest.weights.as_ref().map_or(0.0, |weights| weights.rounding);
    let weights = match manifest.kind {
        Kind::Full => full(&manifest, &files),
        Kind::Delta => chain(root, &files, held),
    };
    let scoring = weights
        .and_then(|(servable, digest)| Ok((Scoring::new(servable).map_err(ArtefactError::from)?, digest)))
        .map_err(LoadError::found);
    let (scoring, weights_digest) = scoring?;
    note(VersionState::Verified);
    let mut work = ScoringWork::default();
    artefact::check_probes(fields.clone(), &probes, rounding, |_, encoding| {
        scoring.logit(encoding.entries(), &mut work)
    })
    .map_err(|error| LoadError::from(error).at(LoadStage::Probing))?;
    note(VersionState::Probed);
    Ok(ServedModel { manifest, digest, encoder: Encoder::new(fields, options.bounds), scoring, weights_digest })
}

/// The files of a version, with its manifest, by name.
type Contents = BTreeMap<String, Bytes>;

/// The weights of a full version, with their digest: of one before format 3, which states none, it is computed.
fn full(manifest: &Manifest, files: &Contents) -> Result<(Servable, WeightsDigest), LoadError> {
    let servable = artefact::read_weights(manifest, &files[MODEL])?;
    let digest = manifest.weights.as_ref().map_or_else(|| servable.digest(), |weights| weights.digest);
    Ok((servable, digest))
}

/// The weights of a delta, on top of those that it stands on.
fn chain(root: &Path, files: &Contents, held: Option<&ServedModel>) -> Result<(Servable, WeightsDigest), LoadError> {
    let mut links = vec![link::verify(files)?];
    let (mut at, mut found) = loop {
        let newest = links.last().expect("there is one").manifest.clone();
        // A delta without a parent of a smaller number is refused when its manifest is read: this comes to an end.
        let parent = newest.parent.ok_or(ArtefactError::IsDelta(newest.version))?;
        if let Some(held) = held.filter(|held| *held.digest == parent.manifest_digest) {
            let link = links.pop().expect("there is one");
            let before = Digested { weights: held.scoring.servable(), digest: held.weights_digest };
            break (Standing::of(&link), applied(&link, &parent, &held.manifest.fields, before)?);
        }
        let place = root.join(names::directory(parent.version, &parent.manifest_digest));
        let (bytes, digest) = read_bytes(&place)?;
        if digest != parent.manifest_digest {
            return Err(LoadError::Digest { found: digest, expected: parent.manifest_digest });
        }
        let manifest = artefact::read_manifest(&bytes)?;
        let mut files = read_files(&place, &manifest)?;
        files.insert(MANIFEST.to_owned(), bytes.into());
        match manifest.kind {
            Kind::Full => {
                break (Standing { version: parent, fields: manifest.fields.clone() }, full(&manifest, &files)?);
            }
            Kind::Delta => links.push(link::verify(&files)?),
        }
    };
    while let Some(link) = links.pop() {
        found = applied(&link, &at.version, &at.fields, Digested { weights: &found.0, digest: found.1 })?;
        at = Standing::of(&link);
    }
    Ok(found)
}

/// What the next link must stand on.
struct Standing {
    version: ParentVersion,
    fields: Vec<Field>,
}

impl Standing {
    fn of(link: &ChainLink) -> Self {
        let version = ParentVersion { version: link.manifest.version, manifest_digest: link.digest.clone() };
        Self { version, fields: link.manifest.fields.clone() }
    }
}

/// The weights of a link's version, with their digest, from those that it must stand on.
fn applied(
    link: &ChainLink,
    at: &ParentVersion,
    fields: &[Field],
    before: Digested<'_>,
) -> Result<(Servable, WeightsDigest), LoadError> {
    if link.manifest.fields != fields {
        return Err(ArtefactError::from(DeltaError::Shape).into());
    }
    let servable = link.weights(at, before)?;
    let digest = link.manifest.weights.as_ref().map(|weights| weights.digest);
    Ok((servable, digest.ok_or(ArtefactError::IsFull(link.manifest.version))?))
}

fn read_error(file: &str) -> impl FnOnce(ReadError) -> LoadError {
    let file = file.to_owned();
    move |source| LoadError::Read { file, source }
}

/// The bytes of a manifest, with their digest.
fn read_bytes(place: &Path) -> Result<(Vec<u8>, String), LoadError> {
    let bytes =
        bounded::read(&place.join(MANIFEST), Length::AtMost(MANIFEST_BYTES_MAX)).map_err(read_error(MANIFEST))?;
    let digest = sha256(&bytes);
    Ok((bytes, digest))
}

/// The bytes of the manifest that was announced, with its digest.
fn read_manifest(place: &Path, offer: &Offer) -> Result<(Vec<u8>, String), LoadError> {
    let (bytes, found) = read_bytes(place)?;
    if let Some(announced) = &offer.announced
        && announced.manifest_digest != found
    {
        return Err(LoadError::Digest { found, expected: announced.manifest_digest.clone() });
    }
    // A directory's name has its first digits.
    if names::directory(offer.version, &found) != offer.directory {
        return Err(LoadError::Digest { found, expected: offer.directory.clone() });
    }
    Ok((bytes, found))
}

fn check_manifest(bytes: &[u8], offer: &Offer, options: &FollowOptions) -> Result<Manifest, LoadError> {
    let manifest = artefact::read_manifest(bytes)?;
    if manifest.model != options.model {
        return Err(LoadError::OtherModel(manifest.model));
    }
    if manifest.version != offer.version {
        return Err(LoadError::Number { found: manifest.version, expected: offer.version });
    }
    let is_parent = |parent| manifest.parent.as_ref() == Some(parent);
    if offer.announced.as_ref().and_then(|announced| announced.parent.as_ref()).is_some_and(|parent| !is_parent(parent))
    {
        return Err(LoadError::Parent);
    }
    let (fingerprints, required) = (&manifest.fingerprints, &options.required);
    for (what, found, expected) in [
        ("fields", &fingerprints.fields, &required.fields),
        ("configuration", &fingerprints.configuration, &required.configuration),
    ] {
        if let Some(expected) = expected.clone().filter(|expected| expected != found) {
            return Err(LoadError::Required { what, found: found.clone(), expected });
        }
    }
    Ok(manifest)
}

/// The files of a version, each the one that the manifest digests; weights are mapped. The manifest itself is among them.
fn read_files(place: &Path, manifest: &Manifest) -> Result<Contents, LoadError> {
    let mut contents = Contents::new();
    for (name, digest) in &manifest.files {
        let path = place.join(name);
        let content = if name == artefact::weights_file(manifest.kind) {
            mapped::map(&path, digest.bytes).map_err(read_error(name))?
        } else {
            bounded::read(&path, Length::Exactly(digest.bytes)).map_err(read_error(name))?.into()
        };
        artefact::check_file(manifest, name, &content)?;
        contents.insert(name.clone(), content);
    }
    Ok(contents)
}

/// What changes when a version's files do: names, sizes and times. `None` where they cannot be listed.
pub(super) fn stamp(place: &Path) -> Option<u64> {
    let mut files: Vec<_> = fs::read_dir(place)
        .ok()?
        .flatten()
        .filter_map(|file| {
            let metadata = file.metadata().ok()?;
            let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            Some(format!("{} {} {}", file.file_name().display(), metadata.len(), modified.as_nanos()))
        })
        .collect();
    files.sort_unstable();
    Some(xxh3_64(files.join("\n").as_bytes()))
}
