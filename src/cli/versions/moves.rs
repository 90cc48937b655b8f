//! `deepfm versions promote | pin | rollback`: aliases, moved by hand. They are records of the versions topic, and fence nobody:
//! a worker that runs goes on, and heeds them.

use std::path::{Path, PathBuf};

use clap::Args;
use deepfm_core::version::alias::{Act, Alias, Hold, LIVE};
use deepfm_core::version::announcement::TEXT_CHARS_MAX;
use deepfm_core::version::known::KnownVersions;
use deepfm_core::version::moves::{self, HoldChange, Moved, OnUnfit, Order};
use deepfm_stream::config::Config;
use deepfm_stream::publish::topic::{self, Record};
use deepfm_stream::publish::turning_back;

use crate::cli::failure::{Exit, Failure, OrExit as _};
use crate::cli::run::topic_exit;
use crate::cli::{config, output};

/// What every move is told.
#[derive(Debug, Args)]
pub(crate) struct Told {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "DEEPFM_CONFIG")]
    config: PathBuf,
    /// The alias.
    #[arg(long, default_value = LIVE)]
    alias: String,
    /// Why, for those who look at its moves later.
    #[arg(long, default_value = "", hide_default_value = true, value_parser = short)]
    why: String,
    /// Who moves it.
    #[arg(long, env = "USER", default_value = "unknown", value_parser = short)]
    by: String,
    /// Also to a version that was rejected by the gate, or abandoned.
    #[arg(long)]
    force: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

fn short(text: &str) -> Result<String, String> {
    if text.chars().count() <= TEXT_CHARS_MAX {
        return Ok(text.to_owned());
    }
    Err(format!("it is longer than {TEXT_CHARS_MAX} characters"))
}

/// What becomes of training when an alias moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Training {
    /// It goes on.
    GoesOn,
    /// At the worker's next start it goes back to where the version was.
    TurnsBack,
}

/// Follows an order.
pub(crate) fn follow(order: Order, told: Told, training: Training) -> Result<(), Failure> {
    let Told { config, alias, why, by, force, json } = told;
    let config = config::load(&config)?;
    let model = &config.model.name;
    let known = super::read(&config)?;
    let act = Act::new(by, why, jiff::Timestamp::now().to_string());
    let on_unfit = if force { OnUnfit::Accept } else { OnUnfit::Refuse };
    let mut moved = moves::plan(&known, &alias, order, on_unfit, act.clone()).or_exit(Exit::Usage)?;
    let at = moved.alias.as_ref().or_else(|| known.aliases.get(&alias)).map(|alias| alias.version);
    let version = at.and_then(|at| known.announced.get(&at)).filter(|_| training == Training::TurnsBack);
    // Looked for before anything is written: an order is followed as a whole or not at all.
    let export = version.map(|version| turning_back::export_of(&config.exports.of(model), version, &known)).transpose();
    let export = export.or_exit(Exit::Disk)?;
    if let (Some(export), Some(version)) = (&export, version) {
        turning_back::ask(&config.state.dir, export.clone(), version.version, act.clone()).or_exit(Exit::Disk)?;
    }
    let after = match write(&config, &alias, &moved) {
        Ok(after) => after,
        Err(failure) => {
            if export.is_some() {
                turning_back::done(&config.state.dir).or_exit(Exit::Disk)?;
            }
            return Err(failure);
        }
    };
    if order == Order::Resume
        && alias == LIVE
        && let Some(newer) = moves::resumed(&after, act)
    {
        moved.alias = Some(newer);
        write(&config, &alias, &Moved { hold: HoldChange::None, ..moved.clone() })?;
    }
    // Who moves it on has changed their mind.
    let is_withdrawn = !matches!(order, Order::Rollback(_)) && alias == LIVE && withdraw(&config.state.dir)?;
    let before = known.aliases.get(&alias).map(|before| before.version);
    if json {
        let Moved { alias: moved_alias, hold } = &moved;
        let held = match hold {
            HoldChange::None => known.holds.get(&alias),
            HoldChange::Begins(hold) => Some(hold),
            HoldChange::Lifted => None,
        };
        return output::json(&serde_json::json!({
            "alias": moved_alias.as_ref().or_else(|| known.aliases.get(&alias)),
            "moved": moved_alias.is_some(),
            "hold": held,
            "training_goes_back_to": export,
            "withdrawn": is_withdrawn,
        }));
    }
    let back = export.map(|export| format!("at its next start the worker goes on from training export {export}"));
    let withdrawn = "training stays where it is: the request to take it back is withdrawn";
    let withdrawn = is_withdrawn.then(|| withdrawn.to_owned());
    output::lines(std::iter::once(said(&alias, before, &moved)).chain(back).chain(withdrawn))
}

/// Writes what was decided, and looks whether what it leads to is still there: a worker removes old versions at any time. What the topic
/// says then.
fn write(config: &Config, alias: &str, moved: &Moved) -> Result<KnownVersions, Failure> {
    let hold_key = Hold::key(&config.model.name, alias);
    let hold = match &moved.hold {
        HoldChange::None => None,
        HoldChange::Begins(hold) => Some(Record::hold(hold)),
        HoldChange::Lifted => Some(Record::tombstone(&hold_key)),
    };
    // The hold first: a worker that moves the alias between the two moves it back.
    let records: Vec<Record> = hold.into_iter().chain(moved.alias.as_ref().map(Record::alias)).collect();
    topic::write(&config.kafka, &records).map_err(|error| {
        let exit = topic_exit(&error);
        let what = "some of it may be written: `deepfm versions list` shows what stands";
        Failure::new(exit, anyhow::Error::from(error).context(what))
    })?;
    let after = super::read(config)?;
    match &moved.alias {
        Some(Alias { version, .. }) if !after.announced.contains_key(version) => {
            let error = anyhow::anyhow!("version {version} was removed meanwhile: point {alias} at another one");
            Err(Failure::new(Exit::Unreachable, error))
        }
        _ => Ok(after),
    }
}

/// Withdraws what was asked of training; says whether anything was.
fn withdraw(state: &Path) -> Result<bool, Failure> {
    let asked = turning_back::pending(state).or_exit(Exit::Disk)?;
    turning_back::done(state).or_exit(Exit::Disk)?;
    Ok(asked.is_some())
}

fn said(alias: &str, before: Option<u64>, moved: &Moved) -> String {
    let at = match (&moved.alias, before) {
        (Some(to), Some(from)) => format!("{alias} moves from version {from} to {}", to.version),
        (Some(to), None) => format!("{alias} points at version {}", to.version),
        (None, Some(at)) => format!("{alias} stays at version {at}"),
        (None, None) => format!("{alias} points nowhere"),
    };
    match moved.hold {
        HoldChange::None => at,
        HoldChange::Begins(_) => {
            format!("{at} and is held there: `--resume` or `versions promote` lets it follow again")
        }
        HoldChange::Lifted => format!("{at} and is not held any more"),
    }
}
