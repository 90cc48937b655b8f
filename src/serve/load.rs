//! From the directory of a version to a model that is ready to score: every check comes before anybody scores with it.
//!
//! First the manifest, by its digest; then sizes and SHA-256 of all files that it names; fingerprints, shapes and values; at last the
//! probes, scored by the same code that answers requests. Everything in the directory may have been written by anybody.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use deepfm_core::event::DETAIL_CHARS_MAX;
use deepfm_core::event::plain::plain;
use deepfm_core::feature::encoder::Encoder;
use deepfm_core::model::weights::WeightsDigest;
use deepfm_core::version::acknowledgement::probes_digest;
use deepfm_core::version::artefact::{self, ArtefactError, MANIFEST, MODEL, PROBES};
use deepfm_core::version::bytes::Bytes;
use deepfm_core::version::delta::Digested;
use deepfm_core::version::link::{self, ChainLink, Footing};
use deepfm_core::version::manifest::{FileDigest, Kind, MANIFEST_BYTES_MAX, Manifest, ParentVersion, sha256};
use deepfm_core::version::names;
use deepfm_core::version::scoring::{Rows, Scoring, ScoringWork};
use deepfm_core::version::servable::Servable;
use xxhash_rust::xxh3::xxh3_64;

use super::follower::{LoadFailure, Offer};
use super::mapped;
use super::model::ServedModel;
use super::places::Places;
use super::state::{LoadStage, VersionState};
use super::target::{FollowOptions, Target};
use crate::bounded::{self, Length, ReadError};
#[cfg(feature = "object-store")]
use crate::remote::RemoteError;

/// The most bytes of a version's files beside its weights: they are read into memory.
const ASIDE_BYTES_MAX: u64 = 256 << 20;

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
    /// The gate held it back, and the newest is followed.
    #[error("it was held back by the gate: {0}")]
    Held(String),
    /// There is more beside its weights than is read.
    #[error("its files beside the weights have {0} bytes, more than {ASIDE_BYTES_MAX}")]
    Aside(u64),
    /// It cannot be fetched.
    #[cfg(feature = "object-store")]
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// It is announced to lie where nothing is fetched from.
    #[cfg(feature = "object-store")]
    #[error("it is announced to lie at {found}: this server fetches it from {expected}, and from nowhere else")]
    Elsewhere { found: String, expected: String },
    /// There is more to fetch than may be.
    #[cfg(feature = "object-store")]
    #[error("it has at least {bytes} bytes with all that it stands on, more than {bytes_max}")]
    Large { bytes: u64, bytes_max: u64 },
    /// A version that it stands on cannot be had.
    #[error("version {version}, on which it stands")]
    Below { version: u64, source: Box<Self> },
}

impl LoadError {
    /// Whether it may go away by itself. What a version stands on, and what lies in object storage, may be mended without a change
    /// to the version.
    fn is_transient(&self) -> bool {
        #[cfg(feature = "object-store")]
        if matches!(self, Self::Remote(_)) {
            return true;
        }
        self.is_away() || matches!(self, Self::Below { .. })
    }

    /// Whether what was fetched has changed since on the local disk.
    fn is_damage(&self) -> bool {
        use ArtefactError::{Digest, Length, Missing};
        match self {
            // A machine that is short of memory or descriptors says nothing of its files.
            Self::Read { source, .. } => !matches!(source, ReadError::Io(_)),
            Self::Digest { .. } | Self::Artefact(Digest { .. } | Length { .. } | Missing(_)) => true,
            Self::Below { source, .. } => source.is_damage(),
            _ => false,
        }
    }

    /// Whether nothing is wrong but that it takes more than one try.
    fn is_unfinished(&self) -> bool {
        match self {
            #[cfg(feature = "object-store")]
            Self::Remote(RemoteError::Unfinished { .. }) => true,
            Self::Below { source, .. } => source.is_unfinished(),
            _ => false,
        }
    }

    /// Whether a file is not there or cannot be read.
    fn is_away(&self) -> bool {
        match self {
            Self::Read { source: ReadError::Io(_) | ReadError::Missing, .. } => true,
            Self::Below { source, .. } => source.is_away(),
            #[cfg(feature = "object-store")]
            Self::Remote(error) => !matches!(error, RemoteError::Digest { .. } | RemoteError::Unchanged(_)),
            _ => false,
        }
    }

    /// What is away was not fetched; what is not what it should be was.
    pub(super) fn found(self) -> LoadFailure {
        let stage = if self.is_away() { LoadStage::Fetching } else { LoadStage::Verifying };
        self.at(stage)
    }

    pub(super) fn below(version: u64) -> impl FnOnce(Self) -> Self {
        move |source| Self::Below { version, source: Box::new(source) }
    }

    pub(super) fn at(self, stage: LoadStage) -> LoadFailure {
        let (is_damage, is_unfinished) = (self.is_damage(), self.is_unfinished());
        let is_held = matches!(self, Self::Held(_));
        let mut reason = self.to_string();
        let mut cause = std::error::Error::source(&self);
        while let Some(error) = cause {
            let said = error.to_string();
            if !reason.contains(&said) {
                reason = format!("{reason}: {said}");
            }
            cause = error.source();
        }
        // Whoever wrote the files may have written anything.
        LoadFailure {
            stage,
            reason: plain(&reason, DETAIL_CHARS_MAX),
            is_transient: self.is_transient(),
            is_held,
            is_damage,
            is_unfinished,
        }
    }
}

/// Loads a version; `note` hears how far it is. A full version stands alone. A delta is applied to `held`, the version served
/// now, if it stands on that; else to the versions that it stands on, which lie beside it, down to a full one. Each of them is
/// checked like the version itself, but for its probes: it is never served.
///
/// # Errors
/// Where it failed, and why.
pub(super) fn load(
    places: &Places,
    offer: &Offer,
    options: &FollowOptions,
    held: Option<&ServedModel>,
    note: &mut dyn FnMut(VersionState),
) -> Result<ServedModel, LoadFailure> {
    let (bytes, digest) = read_manifest(&places.of(&offer.directory), offer).map_err(LoadError::found)?;
    let manifest = check_manifest(&bytes, offer, options).map_err(|error| error.at(LoadStage::Verifying))?;
    let fields =
        artefact::check_fingerprints(&manifest).map_err(|error| LoadError::from(error).at(LoadStage::Verifying))?;
    let place = places.of(&offer.directory);
    let mut files = match manifest.kind {
        Kind::Full => read_files(&place, &manifest, &[MODEL, PROBES]),
        Kind::Delta => read_all(&place, &manifest),
    }
    .map_err(LoadError::found)?;
    files.insert(MANIFEST.to_owned(), bytes.into());
    let probes = files.get(PROBES).cloned().unwrap_or_else(|| Bytes::from(Vec::new()));
    let rounding = manifest.weights.as_ref().map_or(0.0, |weights| weights.rounding);
    let weights = match manifest.kind {
        Kind::Full => full(&manifest, &files),
        Kind::Delta => chain(places, &files, held),
    };
    let scoring = weights
        .and_then(|(servable, digest)| Ok((Scoring::new(servable).map_err(ArtefactError::from)?, digest)))
        .map_err(LoadError::found);
    let (scoring, weights_digest) = scoring?;
    note(VersionState::Verified);
    let (mut work, mut logits) = (ScoringWork::default(), Vec::new());
    artefact::check_probes(fields.clone(), &probes, rounding, |_, encoding| {
        let entries = encoding.entries();
        scoring.score(Rows { entries, start: 0, ends: &[entries.len()] }, &mut work, &mut logits);
        logits[logits.len() - 1]
    })
    .map_err(|error| LoadError::from(error).at(LoadStage::Probing))?;
    note(VersionState::Probed);
    let (encoder, probes_digest) = (Encoder::new(fields, options.bounds), probes_digest(&logits));
    Ok(ServedModel { manifest, digest, encoder, scoring, probes_digest, weights_digest })
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
fn chain(
    places: &Places,
    files: &Contents,
    held: Option<&ServedModel>,
) -> Result<(Servable, WeightsDigest), LoadError> {
    let mut links = vec![link::verify(files)?];
    let (mut at, mut found) = loop {
        let newest = links.last().expect("there is one").manifest.clone();
        // A delta without a parent of a smaller number is refused when its manifest is read: this comes to an end.
        let parent = newest.parent.ok_or(ArtefactError::IsDelta(newest.version))?;
        if let Some(held) = held.filter(|held| *held.digest == parent.manifest_digest) {
            let link = links.pop().expect("there is one");
            let before = Digested { weights: held.scoring.servable(), digest: held.weights_digest };
            let applied = applied(&link, &Footing::of(&held.manifest, &held.digest), before);
            let next = Footing::of(&link.manifest, &link.digest);
            break (next, applied.map_err(|error| of_link(error, &link, &links))?);
        }
        match read_parent(places, &parent).map_err(LoadError::below(parent.version))? {
            Parent::Full(standing, weights) => break (standing, *weights),
            Parent::Delta(link) => links.push(*link),
        }
    };
    while let Some(link) = links.pop() {
        let applied = applied(&link, &at, Digested { weights: &found.0, digest: found.1 });
        found = applied.map_err(|error| of_link(error, &link, &links))?;
        at = Footing::of(&link.manifest, &link.digest);
    }
    Ok(found)
}

/// What could not be made: the version itself, if no link is left that stands on this one, else one below it.
fn of_link(error: LoadError, link: &ChainLink, left: &[ChainLink]) -> LoadError {
    if left.is_empty() { error } else { LoadError::below(link.manifest.version)(error) }
}

/// A version that others stand on.
enum Parent {
    Full(Footing, Box<(Servable, WeightsDigest)>),
    Delta(Box<ChainLink>),
}

fn read_parent(places: &Places, parent: &ParentVersion) -> Result<Parent, LoadError> {
    let place = places.of(&names::directory(parent.version, &parent.manifest_digest));
    let digest = &parent.manifest_digest;
    let bytes = manifest_of(&place, digest)?;
    let manifest = artefact::read_manifest(&bytes)?;
    if manifest.kind == Kind::Full {
        let files = read_files(&place, &manifest, &[MODEL])?;
        return Ok(Parent::Full(Footing::of(&manifest, digest), Box::new(full(&manifest, &files)?)));
    }
    let mut files = read_all(&place, &manifest)?;
    files.insert(MANIFEST.to_owned(), bytes.into());
    Ok(Parent::Delta(Box::new(link::verify(&files)?)))
}

/// The weights of a link's version, with their digest, from those that it must stand on.
fn applied(link: &ChainLink, at: &Footing, before: Digested<'_>) -> Result<(Servable, WeightsDigest), LoadError> {
    let stated = link.manifest.weights.as_ref().ok_or(ArtefactError::IsFull(link.manifest.version))?;
    Ok((link.weights(at, before)?, stated.digest))
}

fn read_error(file: &str) -> impl FnOnce(ReadError) -> LoadError {
    let file = file.to_owned();
    move |source| LoadError::Read { file, source }
}

/// The bytes of the manifest of this digest.
pub(super) fn manifest_of(place: &Path, digest: &str) -> Result<Vec<u8>, LoadError> {
    let (bytes, found) = read_bytes(place).map_err(read_error(MANIFEST))?;
    if found == digest { Ok(bytes) } else { Err(LoadError::Digest { found, expected: digest.to_owned() }) }
}

/// The bytes of a manifest, with their digest.
pub(super) fn read_bytes(place: &Path) -> Result<(Vec<u8>, String), ReadError> {
    let bytes = bounded::read(&place.join(MANIFEST), Length::AtMost(MANIFEST_BYTES_MAX))?;
    let digest = sha256(&bytes);
    Ok((bytes, digest))
}

/// The bytes of the manifest that was announced, with its digest.
fn read_manifest(place: &Path, offer: &Offer) -> Result<(Vec<u8>, String), LoadError> {
    let (bytes, found) = match &offer.announced {
        Some(announced) => (manifest_of(place, &announced.manifest_digest)?, announced.manifest_digest.clone()),
        None => read_bytes(place).map_err(read_error(MANIFEST))?,
    };
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
    // A topic says by its record who is held back, which people may overrule; a directory has the manifest alone.
    if let Some(held) = manifest.held.clone().filter(|_| offer.announced.is_none() && options.target == Target::Latest)
    {
        return Err(LoadError::Held(held));
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

/// All files that a manifest names: what a delta is checked by.
fn read_all(place: &Path, manifest: &Manifest) -> Result<Contents, LoadError> {
    read_files(place, manifest, &manifest.files.keys().map(String::as_str).collect::<Vec<_>>())
}

/// These files of a version, each the one that the manifest digests; weights are mapped, the others not read beyond their bound.
fn read_files(place: &Path, manifest: &Manifest, names: &[&str]) -> Result<Contents, LoadError> {
    let weights = artefact::weights_file(manifest.kind);
    let files = || manifest.files.iter().filter(|(name, _)| names.contains(&name.as_str()));
    let aside = FileDigest::total(files().filter(|(name, _)| *name != weights).map(|(_, digest)| digest));
    if aside > ASIDE_BYTES_MAX {
        return Err(LoadError::Aside(aside));
    }
    let mut contents = Contents::new();
    for (name, digest) in files() {
        let path = place.join(name);
        let content = if name == weights {
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
