//! From the directory of a version to a model that is ready to score: every check comes before anybody scores with it.
//!
//! First the manifest, by its digest; then sizes and SHA-256 of all files that it names; fingerprints, shapes and values; at last the
//! probes, scored by the same code that answers requests. Everything in the directory may have been written by anybody.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use deepfm_core::feature::encoder::Encoder;
use deepfm_core::feature::field::FieldSet;
use deepfm_core::version::artefact::{self, ArtefactError, MANIFEST, MODEL, PROBES};
use deepfm_core::version::bytes::Bytes;
use deepfm_core::version::manifest::{MANIFEST_BYTES_MAX, Manifest, sha256};
use deepfm_core::version::names;
use deepfm_core::version::scoring::{Scoring, ScoringWork};
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

/// Loads the artefact of a version; `note` hears how far it is. Today every artefact stands alone (`kind` full). This is the one place
/// where a version becomes a model: an artefact of another kind, which needs the version that is loaded now, would be told apart by its
/// manifest here, and that version be handed in.
///
/// # Errors
/// Where it failed, and why.
pub(super) fn load(
    root: &Path,
    offer: &Offer,
    options: &FollowOptions,
    note: &mut dyn FnMut(VersionState),
) -> Result<ServedModel, LoadFailure> {
    let place = root.join(&offer.directory);
    let (bytes, digest) = read_manifest(&place, offer).map_err(LoadError::found)?;
    let manifest = check_manifest(&bytes, offer, options).map_err(|error| error.at(LoadStage::Verifying))?;
    let files = Files::read(&place, &manifest).map_err(LoadError::found)?;
    let fields =
        artefact::check_fingerprints(&manifest).map_err(|error| LoadError::from(error).at(LoadStage::Verifying))?;
    let scoring = weights(&manifest, &files.model).map_err(|error| error.at(LoadStage::Verifying))?;
    note(VersionState::Verified);
    probe(&scoring, fields.clone(), &files.probes).map_err(|error| error.at(LoadStage::Probing))?;
    note(VersionState::Probed);
    Ok(ServedModel { manifest, digest, encoder: Encoder::new(fields, options.bounds), scoring })
}

fn read_error(file: &str) -> impl FnOnce(ReadError) -> LoadError {
    let file = file.to_owned();
    move |source| LoadError::Read { file, source }
}

/// The bytes of the manifest that was announced, with its digest.
fn read_manifest(place: &Path, offer: &Offer) -> Result<(Vec<u8>, String), LoadError> {
    let bytes =
        bounded::read(&place.join(MANIFEST), Length::AtMost(MANIFEST_BYTES_MAX)).map_err(read_error(MANIFEST))?;
    let found = sha256(&bytes);
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

/// The files of a version that scoring needs, each the one that the manifest digests, as all the others are.
struct Files {
    model: Bytes,
    probes: Vec<u8>,
}

impl Files {
    fn read(place: &Path, manifest: &Manifest) -> Result<Self, LoadError> {
        let (mut model, mut probes) = (Bytes::from(Vec::new()), Vec::new());
        for (name, digest) in &manifest.files {
            let path = place.join(name);
            if name == MODEL {
                model = mapped::map(&path, digest.bytes).map_err(read_error(name))?;
                artefact::check_file(manifest, name, &model)?;
                continue;
            }
            let content = bounded::read(&path, Length::Exactly(digest.bytes)).map_err(read_error(name))?;
            artefact::check_file(manifest, name, &content)?;
            if name == PROBES {
                probes = content;
            }
        }
        Ok(Self { model, probes })
    }
}

fn weights(manifest: &Manifest, model: &Bytes) -> Result<Scoring, LoadError> {
    let servable = artefact::read_weights(manifest, model)?;
    Ok(Scoring::new(servable).map_err(ArtefactError::from)?)
}

fn probe(scoring: &Scoring, fields: FieldSet, lines: &[u8]) -> Result<(), LoadError> {
    let mut work = ScoringWork::default();
    artefact::check_probes(fields, lines, |_, encoding| scoring.logit(encoding.entries(), &mut work))?;
    Ok(())
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
