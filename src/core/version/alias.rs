//! The records that say which version to serve: aliases, as `schemas/alias.schema.json` has them, and holds, as
//! `schemas/hold.schema.json` has them.
//!
//! A worker moves the alias `live` to each version that passes its gate; people move any alias by hand. A *hold* keeps an alias
//! where they put it. It stands under a key of its own that only people write, so that whatever a worker writes at the same
//! moment cannot undo it: a worker that finds `live` elsewhere than its hold moves it back.

use serde::{Deserialize, Serialize};

use super::announcement::{Announcement, FORMAT, MOVES_MAX, RecordError, TEXT_CHARS_MAX, check_form, check_key};
use super::names;

/// The alias that servers follow by default.
pub const LIVE: &str = "live";

/// Where an alias points. Key: `<model>/a/<alias>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// The form of the record.
    pub format: u32,
    /// Name of the model.
    pub model: String,
    /// Its name.
    pub alias: String,
    /// The version that it points at.
    pub version: u64,
    /// SHA-256 of that version's manifest.
    pub manifest_digest: String,
    /// Name of that version's directory.
    pub directory: String,
    /// When it was moved, RFC 3339.
    pub moved_at: String,
    /// The last moves, newest first, this one among them.
    pub moves: Vec<Move>,
}

/// A move of an alias.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The version that it was moved to.
    pub version: u64,
    /// SHA-256 of that version's manifest.
    pub manifest_digest: String,
    /// When, RFC 3339.
    pub moved_at: String,
    /// The version that it pointed at before, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
    /// Who moved it: a user, or a worker.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Who does something to an alias, why, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Who.
    pub by: String,
    /// Why, in words.
    pub why: String,
    /// When, RFC 3339.
    pub at: String,
}

impl Act {
    /// What somebody does for a reason, at a time.
    pub fn new(by: impl Into<String>, why: impl Into<String>, at: impl Into<String>) -> Self {
        Self { by: by.into(), why: why.into(), at: at.into() }
    }
}

/// An alias stays where it is, whatever versions come. Key: `<model>/h/<alias>`; a tombstone lifts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The form of the record.
    pub format: u32,
    /// Name of the model.
    pub model: String,
    /// Name of the alias.
    pub alias: String,
    /// The version that it is held at.
    pub version: u64,
    /// SHA-256 of that version's manifest.
    pub manifest_digest: String,
    /// Since when, RFC 3339.
    pub held_at: String,
    /// Who holds it.
    pub by: String,
    /// Why, in words.
    pub why: String,
}

impl Alias {
    /// Reads a record of the topic, as [`Announcement::read`] does.
    ///
    /// # Errors
    /// When it is not an alias under this key.
    pub fn read(key: &str, record: &[u8]) -> Result<Self, RecordError> {
        let alias: Self = serde_json::from_slice(record)?;
        check_form(alias.format)?;
        check_key(key, Self::key(&alias.model, &alias.alias))?;
        names::check_model(&alias.model)?;
        names::check_model(&alias.alias)?;
        names::check_directory(&alias.directory, alias.version, &alias.manifest_digest)?;
        if alias.moves.len() > MOVES_MAX {
            return Err(RecordError::Moves(alias.moves.len()));
        }
        for Move { version, manifest_digest, by, why, previous: _, moved_at: _ } in &alias.moves {
            names::check_version(*version)?;
            names::check_digest(manifest_digest)?;
            check_text(by)?;
            check_text(why)?;
        }
        Ok(alias)
    }

    /// The key of an alias.
    pub fn key(model: &str, alias: &str) -> String {
        format!("{model}/a/{alias}")
    }

    /// The record's payload.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an alias always encodes")
    }

    /// An alias moved to a version, after what it was before.
    pub fn moved(before: Option<&Self>, alias: &str, to: &Announcement, act: Act) -> Self {
        let newest = Move {
            version: to.version,
            manifest_digest: to.manifest_digest.clone(),
            moved_at: act.at.clone(),
            previous: before.map(|before| before.version),
            by: act.by,
            why: act.why,
        };
        let older = before.map(|alias| alias.moves.clone()).unwrap_or_default();
        Self {
            format: FORMAT,
            model: to.model.clone(),
            alias: alias.to_owned(),
            version: to.version,
            manifest_digest: to.manifest_digest.clone(),
            directory: to.directory.clone(),
            moved_at: act.at,
            moves: std::iter::once(newest).chain(older).take(MOVES_MAX).collect(),
        }
    }
}

impl Hold {
    /// Reads a record of the topic, as [`Announcement::read`] does.
    ///
    /// # Errors
    /// When it is not a hold under this key.
    pub fn read(key: &str, record: &[u8]) -> Result<Self, RecordError> {
        let hold: Self = serde_json::from_slice(record)?;
        check_form(hold.format)?;
        check_key(key, Self::key(&hold.model, &hold.alias))?;
        names::check_model(&hold.model)?;
        names::check_model(&hold.alias)?;
        names::check_version(hold.version)?;
        names::check_digest(&hold.manifest_digest)?;
        check_text(&hold.by)?;
        check_text(&hold.why)?;
        Ok(hold)
    }

    /// The key of an alias's hold.
    pub fn key(model: &str, alias: &str) -> String {
        format!("{model}/h/{alias}")
    }

    /// The record's payload.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a hold always encodes")
    }

    /// An alias held at a version.
    pub fn of(alias: &str, at: &Announcement, act: Act) -> Self {
        Self {
            format: FORMAT,
            model: at.model.clone(),
            alias: alias.to_owned(),
            version: at.version,
            manifest_digest: at.manifest_digest.clone(),
            held_at: act.at,
            by: act.by,
            why: act.why,
        }
    }
}

fn check_text(text: &str) -> Result<(), RecordError> {
    if text.chars().count() <= TEXT_CHARS_MAX { Ok(()) } else { Err(RecordError::Text) }
}
