//! Which version is loaded next, and what has become of each: a state machine without I/O and clock, fed with what the versions
//! topic or directory says and with what loading came to.
//!
//! ```text
//! announced → fetching → verified → probed → serving → draining → retired
//!                 └──────────┴─ failed (stage, reason): the version served before is served on
//! ```
//!
//! * A number belongs to the first content that is announced under it: numbers are never used again, so another content under
//!   the same number comes from a worker that was fenced off.
//! * The version served is replaced by an older one only when the alias or pin says so.
//! * A version that failed is tried again when something about it has changed; one whose files could not be read, or that stands
//!   on one that failed, after a while that doubles.
//! * Fewer versions are tried than are kept in mind, so that trying comes to an end whatever fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::state::{LoadStage, VersionState, VersionStatus};
use super::target::Target;
use deepfm_core::version::manifest::{Kind, ParentVersion};

/// The most versions that are kept in mind, the newest.
const OFFERS_MAX: usize = 4096;

/// The most versions of which is remembered what became of them.
const STATES_MAX: usize = 64;

/// The most announced versions that a status shows beside those.
const SHOWN_MAX: usize = 16;

/// The most versions that are tried, the newest: fewer than those of which is remembered what became of them.
const CANDIDATES_MAX: usize = 32;

/// How long after a version could not be read it is tried again, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// A version that could be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its number.
    pub version: u64,
    /// The name of its directory.
    pub directory: String,
    /// What its announcement says beside that; a directory of versions has none.
    pub announced: Option<AnnouncedAs>,
}

/// What an announcement says of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedAs {
    /// SHA-256 of its manifest.
    pub manifest_digest: String,
    /// What its state descends from.
    pub parent: Option<ParentVersion>,
    /// Whether it stands alone; not known of one that only an alias names.
    pub kind: Option<Kind>,
    /// The epoch of its writer: each worker that takes over has a greater one.
    pub epoch: Option<u64>,
    /// Whether it was held back from going live, or abandoned: who follows the newest passes over it.
    pub is_passed_over: bool,
    /// Where it lies in object storage, if it does.
    pub uri: Option<String>,
}

/// Where an alias points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The version's number.
    pub version: u64,
    /// The name of its directory.
    pub directory: String,
    /// SHA-256 of its manifest.
    pub manifest_digest: String,
}

/// What the topic or directory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It is read from its beginning: what it said before does not count any more.
    Begun,
    /// A version is there.
    Offered(Offer),
    /// A version was removed.
    Withdrawn(u64),
    /// The alias points here now.
    Pointed(Option<Pointer>),
    /// Something that is said of a version is not to be believed.
    Disbelieved {
        /// Its number.
        version: u64,
        /// The name of its directory.
        directory: String,
        /// Why not.
        reason: String,
    },
    /// Everything that was there has been said.
    CaughtUp,
}

/// Why a version could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own, and none rules out another")]
pub struct LoadFailure {
    /// Where.
    pub stage: LoadStage,
    /// Why.
    pub reason: String,
    /// Whether it may go away by itself, as what disks and networks do.
    pub is_transient: bool,
    /// Whether nothing is wrong with it but that the gate held it back, as its manifest says.
    pub is_held: bool,
    /// Whether files are not here, or not what a manifest says of them: what was fetched was, when it got its name.
    pub is_damage: bool,
    /// Whether nothing is wrong but that not all of it has come yet: it is gone on with.
    pub is_unfinished: bool,
}

impl LoadFailure {
    /// A failure for good, with nothing more to say of it.
    pub fn new(stage: LoadStage, reason: String) -> Self {
        Self { stage, reason, is_transient: false, is_held: false, is_damage: false, is_unfinished: false }
    }
}

/// What became of a version.
#[derive(Clone, Debug)]
struct Standing {
    version: u64,
    state: VersionState,
    /// How often it could not be read, and when it is tried again; never by itself without a time.
    tries: u32,
    retry_at: Option<Instant>,
    /// The order of changes: the oldest is forgotten first.
    changed: u64,
}

/// Follows one target.
#[derive(Debug)]
pub struct Follower {
    target: Target,
    offers: BTreeMap<u64, Offer>,
    /// Those of the offers that are held back by their manifests.
    held: BTreeSet<u64>,
    alias: Option<Pointer>,
    is_caught_up: bool,
    /// By directory.
    standings: BTreeMap<String, Standing>,
    loading: Option<Offer>,
    /// What was loading, and is to be gone on with.
    unfinished: Option<Offer>,
    serving: Option<Offer>,
    changes: u64,
}

impl Follower {
    /// Knows nothing yet.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            offers: BTreeMap::new(),
            held: BTreeSet::new(),
            alias: None,
            is_caught_up: false,
            standings: BTreeMap::new(),
            loading: None,
            unfinished: None,
            serving: None,
            changes: 0,
        }
    }

    /// Takes note of something.
    pub fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Begun => {
                self.offers.clear();
                self.held.clear();
                self.alias = None;
                self.is_caught_up = false;
                // A topic that was recreated counts epochs anew. What is served is compared with once it is announced again.
                if let Some(announced) = self.serving.as_mut().and_then(|serving| serving.announced.as_mut()) {
                    announced.epoch = None;
                }
            }
            Notice::Offered(offer) => self.offered(offer),
            Notice::Withdrawn(version) => self.forget(version),
            Notice::Pointed(pointer) => {
                if let Some(pointer) = pointer.as_ref().filter(|pointer| self.alias.as_ref() != Some(pointer)) {
                    self.forgive(&pointer.directory.clone());
                }
                self.alias = pointer;
            }
            Notice::Disbelieved { version, directory, reason } => self.disbelieve(version, &directory, reason),
            Notice::CaughtUp => self.is_caught_up = true,
        }
    }

    fn offered(&mut self, offer: Offer) {
        if let Some(serving) = self.serving.as_mut()
            && serving.version == offer.version
            && is_same_content(serving, &offer)
        {
            serving.announced.clone_from(&offer.announced);
        }
        match self.offers.get(&offer.version) {
            Some(known) if *known == offer => return,
            Some(known) if !is_same_content(known, &offer) => {
                let epoch = |offer: &Offer| offer.announced.as_ref().and_then(|announced| announced.epoch);
                // A later writer's word counts; without epochs the first does.
                if epoch(known).is_none() || epoch(known) >= epoch(&offer) {
                    let first = known.directory.clone();
                    let reason =
                        format!("version {} is {first}: another content is announced under its number", offer.version);
                    self.disbelieve(offer.version, &offer.directory, reason);
                    return;
                }
            }
            _ => {}
        }
        self.forgive(&offer.directory);
        self.offers.insert(offer.version, offer);
        if self.offers.len() > OFFERS_MAX {
            let is_kept = |version: &u64| self.target == Target::Pinned(*version) || self.serving() == Some(*version);
            if let Some(oldest) = self.offers.keys().copied().find(|version| !is_kept(version)) {
                self.forget(oldest);
            }
        }
    }

    fn forget(&mut self, version: u64) {
        self.offers.remove(&version);
        self.held.remove(&version);
    }

    /// What is wrong with a version may have gone: its files are others now.
    pub fn forgive(&mut self, directory: &str) {
        let is_failed = |standing: &Standing| matches!(standing.state, VersionState::Failed { .. });
        if self.standings.get(directory).is_some_and(is_failed) {
            self.standings.remove(directory);
        }
    }

    fn disbelieve(&mut self, version: u64, directory: &str, reason: String) {
        // What is served was believed before.
        if self.serving.as_ref().is_none_or(|serving| serving.directory != directory) {
            let state = VersionState::Failed { stage: LoadStage::Announced, reason };
            self.set(version, directory, state, None);
        }
    }

    /// The version to load now, if there is one; its files are fetched from here on.
    pub fn next(&mut self, now: Instant) -> Option<Offer> {
        if self.loading.is_some() || !self.is_caught_up {
            return None;
        }
        let mut candidates = self.candidates();
        if let Some(begun) = self.unfinished.take().filter(|begun| self.goes_on(begun, candidates.first())) {
            candidates.insert(0, begun);
        }
        for offer in candidates {
            if self.serving.as_ref().is_some_and(|serving| serving.directory == offer.directory) {
                return None;
            }
            if let Some(Standing { state: VersionState::Failed { .. }, retry_at, .. }) =
                self.standings.get(&offer.directory)
            {
                match retry_at {
                    Some(at) if *at <= now => {}
                    // Meanwhile an older one is better than none.
                    _ => continue,
                }
            }
            if let Some(reason) = self.refusal(&offer) {
                self.disbelieve(offer.version, &offer.directory, reason);
                continue;
            }
            self.loading = Some(offer.clone());
            self.set(offer.version, &offer.directory, VersionState::Fetching, None);
            return Some(offer);
        }
        None
    }

    /// Whether one that is fetched in several tries comes before the best: newer ones wait, or it would never be whole where they
    /// come faster than they are fetched. Who points back waits for nothing.
    fn goes_on(&self, begun: &Offer, best: Option<&Offer>) -> bool {
        let is_passed_over = |known: &Offer| known.announced.as_ref().is_some_and(|it| it.is_passed_over);
        let is_good = |known: &Offer| is_same_content(known, begun) && !is_passed_over(known);
        best.is_some_and(|best| best.version >= begun.version)
            && self.serving().is_none_or(|served| served < begun.version)
            && self.offers.get(&begun.version).is_some_and(is_good)
    }

    /// The versions that the target allows, the best first, and no more than can be kept in mind.
    fn candidates(&self) -> Vec<Offer> {
        match &self.target {
            Target::Pinned(version) => self.offers.get(version).cloned().into_iter().collect(),
            Target::Alias(_) => {
                let Some(pointed) = self.alias.as_ref().map(|pointer| self.pointed(pointer)) else { return Vec::new() };
                let kind = pointed.announced.as_ref().and_then(|announced| announced.kind);
                if self.serving.is_some() || kind != Some(Kind::Delta) {
                    return vec![pointed];
                }
                // Where a chain cannot be made and nothing is served, what stands alone before it is better than nothing.
                let is_full = |offer: &&Offer| {
                    offer.announced.as_ref().is_some_and(|it| it.kind == Some(Kind::Full) && !it.is_passed_over)
                };
                let older = self.offers.range(..pointed.version).rev().map(|(_, offer)| offer);
                let full: Vec<Offer> = older.filter(is_full).take(CANDIDATES_MAX - 1).cloned().collect();
                std::iter::once(pointed).chain(full).collect()
            }
            Target::Latest => {
                let served = self.serving.as_ref().map_or(0, |serving| serving.version);
                let is_passed_over = |offer: &Offer| {
                    self.held.contains(&offer.version) || offer.announced.as_ref().is_some_and(|it| it.is_passed_over)
                };
                let newer = self.offers.range(served..).rev().map(|(_, offer)| offer);
                newer.filter(|offer| !is_passed_over(offer)).take(CANDIDATES_MAX).cloned().collect()
            }
        }
    }

    /// The version that an alias points at, which its own record names whole: its announcement may have gone.
    fn pointed(&self, pointer: &Pointer) -> Offer {
        let Pointer { version, directory, manifest_digest } = pointer.clone();
        let known = self.offers.get(&version).filter(|offer| offer.directory == directory);
        known.cloned().unwrap_or_else(|| {
            let announced = AnnouncedAs {
                manifest_digest,
                parent: None,
                kind: None,
                epoch: None,
                is_passed_over: false,
                uri: None,
            };
            Offer { version, directory, announced: Some(announced) }
        })
    }

    /// Why what is announced is not to be believed, if so.
    fn refusal(&self, offer: &Offer) -> Option<String> {
        let announced = offer.announced.as_ref()?;
        if let Some(known) = self.offers.get(&offer.version).filter(|known| !is_same_content(known, offer)) {
            return Some(format!("version {} is announced as {}", offer.version, known.directory));
        }
        if let Some(pointer) = self.alias.as_ref().filter(|pointer| pointer.version == offer.version)
            && pointer.manifest_digest != announced.manifest_digest
        {
            return Some(format!("the alias names another content of version {}", offer.version));
        }
        if let Some(parent) = &announced.parent {
            let known = self.offers.get(&parent.version).and_then(|known| known.announced.as_ref());
            if parent.version >= offer.version {
                return Some(format!("its parent is version {}, which is not older", parent.version));
            }
            if known.is_some_and(|known| known.manifest_digest != parent.manifest_digest) {
                return Some(format!("its parent {} is not the version announced under that number", parent.version));
            }
        }
        let serving = self.serving.as_ref()?;
        let served = serving.announced.as_ref().and_then(|announced| announced.epoch)?;
        // An older version by an older writer is where an alias was rolled back to.
        let epoch = announced.epoch.filter(|epoch| *epoch < served && offer.version > serving.version)?;
        Some(format!("its writer has epoch {epoch}, the version served has {served}: it was fenced off"))
    }

    /// The version that is loading is this far.
    pub fn progressed(&mut self, state: VersionState) {
        if let Some(Offer { version, directory, .. }) = self.loading.clone() {
            self.set(version, &directory, state, None);
        }
    }

    /// The version that was loading cannot be served.
    pub fn failed(&mut self, failure: LoadFailure, now: Instant) {
        let Some(Offer { version, directory, announced }) = self.loading.take() else { return };
        let LoadFailure { stage, reason, is_transient, is_held, is_damage: _, is_unfinished } = failure;
        if is_unfinished {
            self.unfinished = Some(Offer { version, directory, announced });
            return;
        }
        if is_held {
            self.held.insert(version);
        }
        let tries = self.standings.get(&directory).map_or(0, |standing| standing.tries);
        let (first, most) = RETRY;
        let pause = first.saturating_mul(1 << tries.min(16)).min(most);
        self.set(version, &directory, VersionState::Failed { stage, reason }, is_transient.then(|| now + pause));
        if let Some(standing) = self.standings.get_mut(&directory) {
            standing.tries = tries.saturating_add(1);
        }
    }

    /// The version that was loading is served now; the directory of the one before.
    pub fn swapped(&mut self) -> Option<String> {
        let offer = self.loading.take()?;
        let before = self.serving.replace(offer.clone());
        if let Some(standing) = self.standings.get_mut(&offer.directory) {
            standing.tries = 0;
        }
        self.set(offer.version, &offer.directory, VersionState::Serving, None);
        let before = before?;
        self.set(before.version, &before.directory, VersionState::Draining, None);
        Some(before.directory)
    }

    /// Nobody uses the version of this directory any more. It may have come back meanwhile.
    pub fn retired(&mut self, directory: &str) {
        if let Some(standing) = self.standings.get_mut(directory)
            && standing.state == VersionState::Draining
        {
            standing.state = VersionState::Retired;
        }
    }

    /// When the next failed version that is still wanted is to be tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        if !self.is_caught_up {
            return None;
        }
        let standing = |offer: Offer| self.standings.get(&offer.directory).and_then(|standing| standing.retry_at);
        self.candidates().into_iter().filter_map(standing).min()
    }

    /// The directories of versions that are wanted and failed for good, unless their files change.
    pub fn given_up(&self) -> Vec<String> {
        let is_given_up = |directory: &String| {
            self.standings.get(directory).is_some_and(|standing| {
                matches!(standing.state, VersionState::Failed { stage, .. } if stage != LoadStage::Announced)
                    && standing.retry_at.is_none()
            })
        };
        self.candidates().into_iter().map(|offer| offer.directory).filter(is_given_up).collect()
    }

    /// The number of the version served.
    pub fn serving(&self) -> Option<u64> {
        self.serving.as_ref().map(|serving| serving.version)
    }

    /// What is known of versions, the newest last.
    pub fn statuses(&self) -> Vec<VersionStatus> {
        let standing = |(directory, standing): (&String, &Standing)| VersionStatus {
            version: standing.version,
            directory: directory.clone(),
            state: standing.state.clone(),
        };
        let mut statuses: Vec<VersionStatus> = self.standings.iter().map(standing).collect();
        let waiting = self.offers.values().rev().filter(|offer| !self.standings.contains_key(&offer.directory));
        statuses.extend(waiting.take(SHOWN_MAX).map(|offer| VersionStatus {
            version: offer.version,
            directory: offer.directory.clone(),
            state: VersionState::Announced,
        }));
        statuses.sort_by(|one, other| (one.version, &one.directory).cmp(&(other.version, &other.directory)));
        statuses
    }

    fn set(&mut self, version: u64, directory: &str, state: VersionState, retry_at: Option<Instant>) {
        self.changes += 1;
        let tries = self.standings.get(directory).map_or(0, |standing| standing.tries);
        let standing = Standing { version, state, tries, retry_at, changed: self.changes };
        self.standings.insert(directory.to_owned(), standing);
        let finished =
            |standing: &Standing| matches!(standing.state, VersionState::Failed { .. } | VersionState::Retired);
        if self.standings.len() <= STATES_MAX {
            return;
        }
        // What is wanted and was tried would otherwise be tried again at once.
        let wanted: Vec<String> = self.candidates().into_iter().map(|offer| offer.directory).collect();
        while self.standings.len() > STATES_MAX {
            let forgettable = |(name, standing): &(&String, &Standing)| finished(standing) && !wanted.contains(name);
            let oldest = self.standings.iter().filter(forgettable);
            let Some(oldest) = oldest.min_by_key(|(_, standing)| standing.changed).map(|(name, _)| name.clone()) else {
                return;
            };
            self.standings.remove(&oldest);
        }
    }
}

/// Whether two offers are of one content, as far as they tell.
fn is_same_content(one: &Offer, other: &Offer) -> bool {
    let digest = |offer: &Offer| offer.announced.as_ref().map(|announced| announced.manifest_digest.clone());
    let (a, b) = (digest(one), digest(other));
    one.directory == other.directory && (a.is_none() || b.is_none() || a == b)
}

#[cfg(test)]
mod tests;
