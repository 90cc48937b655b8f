//! Moves of aliases by hand: what is written for each, as a function of what the topic says.
//!
//! | order | the alias | its hold |
//! |---|---|---|
//! | promote to a version | moves there | is lifted |
//! | pin to a version | moves there | begins |
//! | roll back | moves to where it was before, or to a version | begins |
//! | resume | `live` moves to the newest version that passed the gate, if that is newer | is lifted |

use super::alias::{Act, Alias, Hold, LIVE};
use super::announcement::Announcement;
use super::known::KnownVersions;
use super::names::{self, NameError};
use crate::event::DETAIL_CHARS_MAX;
use crate::event::plain::plain;

/// What somebody wants of an alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It points at this version, and follows from there.
    Promote(u64),
    /// It points at this version, and stays.
    Pin(u64),
    /// It points at this version, or where it pointed before, and stays.
    Rollback(Option<u64>),
    /// It follows again.
    Resume,
}

/// What is done with a version that did not pass its gate, or that the model does not descend from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnfit {
    /// The order is refused.
    Refuse,
    /// The alias is moved there all the same.
    Accept,
}

/// An order that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The alias can have no such name.
    #[error("the alias")]
    Name(#[from] NameError),
    /// There is no such version.
    #[error("no version {0} is announced: `deepfm versions list` has those that are")]
    NoVersion(u64),
    /// There is no such alias.
    #[error("there is no alias {0:?}: `deepfm versions promote VERSION --alias {0}` makes it")]
    NoAlias(String),
    /// It never pointed elsewhere, or what it pointed at is removed.
    #[error("the alias {0:?} has no earlier version that is still there: name one with `--to VERSION`")]
    NothingBefore(String),
    /// It is not held.
    #[error("the alias {0:?} is not held")]
    NotHeld(String),
    /// The version did not pass its gate.
    #[error("version {0} was rejected by the gate: {1}. `--force` serves it all the same")]
    Rejected(u64, String),
    /// The model does not descend from the version.
    #[error("version {0} was abandoned: later versions do not descend from it. `--force` serves it all the same")]
    Abandoned(u64),
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The alias, if it moves.
    pub alias: Option<Alias>,
    /// Its hold.
    pub hold: HoldChange,
}

/// What becomes of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldChange {
    /// There is none, and none begins.
    None,
    /// It begins, or is another.
    Begins(Hold),
    /// It is lifted.
    Lifted,
}

/// What follows from an order.
///
/// # Errors
/// When it cannot be followed; nothing is to be written then.
pub fn plan(known: &KnownVersions, alias: &str, order: Order, on_unfit: OnUnfit, act: Act) -> Result<Moved, MoveError> {
    names::check_model(alias)?;
    let (before, hold) = (known.aliases.get(alias), known.holds.get(alias));
    let lifted = || if hold.is_some() { HoldChange::Lifted } else { HoldChange::None };
    let to = |version: u64| fit(known, version, on_unfit);
    let moved = |to: &Announcement, act: Act| {
        let is_there = before.is_some_and(|before| before.manifest_digest == to.manifest_digest);
        (!is_there).then(|| Alias::moved(before, alias, to, act))
    };
    match order {
        Order::Promote(version) => Ok(Moved { alias: moved(to(version)?, act), hold: lifted() }),
        Order::Pin(version) => {
            let to = to(version)?;
            Ok(Moved { hold: HoldChange::Begins(Hold::of(alias, to, act.clone())), alias: moved(to, act) })
        }
        Order::Rollback(version) => {
            let before = before.ok_or_else(|| MoveError::NoAlias(alias.to_owned()))?;
            let to = match version {
                Some(version) => to(version)?,
                // It was served before.
                None => earlier(known, before).ok_or_else(|| MoveError::NothingBefore(alias.to_owned()))?,
            };
            Ok(Moved { hold: HoldChange::Begins(Hold::of(alias, to, act.clone())), alias: moved(to, act) })
        }
        Order::Resume => {
            hold.ok_or_else(|| MoveError::NotHeld(alias.to_owned()))?;
            let is_newer = |one: &&Announcement| before.is_none_or(|before| before.version < one.version);
            let newest = known.newest_good().filter(|one| alias == LIVE && is_newer(one));
            Ok(Moved { alias: newest.and_then(|newest| moved(newest, act)), hold: HoldChange::Lifted })
        }
    }
}

/// Where `live` goes once it has been let go, if somewhere: a version that passed its gate may have been announced meanwhile by a worker
/// that still saw the hold.
pub fn resumed(known: &KnownVersions, act: Act) -> Option<Alias> {
    let live = known.aliases.get(LIVE);
    let is_held = known.holds.contains_key(LIVE);
    let newest = known.newest_good().filter(|one| !is_held && live.is_none_or(|live| live.version < one.version))?;
    Some(Alias::moved(live, LIVE, newest, act))
}

fn fit(known: &KnownVersions, version: u64, on_unfit: OnUnfit) -> Result<&Announcement, MoveError> {
    let found = known.announced.get(&version).ok_or(MoveError::NoVersion(version))?;
    match (on_unfit, &found.held, &found.abandoned) {
        (OnUnfit::Refuse, Some(why), _) => Err(MoveError::Rejected(version, plain(why, DETAIL_CHARS_MAX))),
        (OnUnfit::Refuse, None, Some(_)) => Err(MoveError::Abandoned(version)),
        _ => Ok(found),
    }
}

/// Where an alias pointed before and that is older than where it points: the last such move to what is still there.
fn earlier<'k>(known: &'k KnownVersions, alias: &Alias) -> Option<&'k Announcement> {
    let mut others = alias.moves.iter().filter(|one| one.version < alias.version);
    others
        .find_map(|one| known.announced.get(&one.version).filter(|found| found.manifest_digest == one.manifest_digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(version: u64) -> Announcement {
        let document = include_str!("../../../schemas/examples/announcement/valid/first.json");
        let announcement: Announcement = serde_json::from_str(document).expect("the example is valid");
        let manifest_digest = format!("{version:064x}");
        let directory = names::directory(version, &manifest_digest);
        Announcement { version, manifest_digest, directory, held: None, ..announcement }
    }

    fn act(at: &str) -> Act {
        Act::new("anna", "because", at)
    }

    /// Versions 1 to 6 of which `live` pointed at 1, 2 and 4; 3 was rejected, 5 abandoned.
    fn known() -> KnownVersions {
        let mut known = KnownVersions::default();
        for version in 1..=6 {
            known.announced.insert(version, announced(version));
        }
        known.announced.get_mut(&3).expect("it is there").held = Some("calibration is 9".to_owned());
        let at = "2026-01-01T00:00:00Z".to_owned();
        known.announced.get_mut(&5).expect("it is there").abandoned =
            Some(super::super::announcement::Abandoned { at, parent: None });
        for version in [1, 2, 4] {
            let alias = Alias::moved(known.aliases.get(LIVE), LIVE, &known.announced[&version], act("t"));
            known.aliases.insert(LIVE.to_owned(), alias);
        }
        known
    }

    /// Follows an order as a reader of what is written would.
    fn follow(known: &mut KnownVersions, order: Order) -> Result<(), MoveError> {
        let Moved { alias, hold } = plan(known, LIVE, order, OnUnfit::Refuse, act("later"))?;
        known.aliases.extend(alias.map(|alias| (LIVE.to_owned(), alias)));
        match hold {
            HoldChange::None => {}
            HoldChange::Begins(hold) => drop(known.holds.insert(LIVE.to_owned(), hold)),
            HoldChange::Lifted => drop(known.holds.remove(LIVE)),
        }
        Ok(())
    }

    fn live(known: &KnownVersions) -> (u64, Option<u64>) {
        (known.aliases[LIVE].version, known.holds.get(LIVE).map(|hold| hold.version))
    }

    #[test]
    fn a_rollback_goes_to_where_the_alias_was_before_and_stays_until_it_resumes() {
        let mut known = known();
        follow(&mut known, Order::Rollback(None)).expect("it was at 2");
        assert_eq!(live(&known), (2, Some(2)));
        assert_eq!(known.live_due(Some(6)), None, "a good version does not undo it");
        let newest = &known.aliases[LIVE].moves[0];
        let noted =
            (newest.version, newest.previous, newest.by.as_str(), newest.why.as_str(), newest.moved_at.as_str());
        assert_eq!(noted, (2, Some(4), "anna", "because", "later"));
        follow(&mut known, Order::Resume).expect("it is held");
        assert_eq!(live(&known), (6, None), "the newest that passed the gate and was not abandoned");
        assert_eq!(follow(&mut known, Order::Resume), Err(MoveError::NotHeld(LIVE.to_owned())));
    }

    #[test]
    fn a_second_rollback_goes_on_to_the_version_before() {
        let mut known = known();
        follow(&mut known, Order::Rollback(None)).expect("it was at 2");
        follow(&mut known, Order::Rollback(None)).expect("it was at 1 before");
        assert_eq!(live(&known), (1, Some(1)), "not forward to 4 again");
        let nothing = Err(MoveError::NothingBefore(LIVE.to_owned()));
        assert_eq!(follow(&mut known, Order::Rollback(None)), nothing, "it never pointed at an older one");
        follow(&mut known, Order::Promote(4)).expect("it is there");
        known.announced.remove(&2);
        follow(&mut known, Order::Rollback(None)).expect("of its moves 2 is gone, 1 is there");
        assert_eq!(live(&known), (1, Some(1)));
    }

    #[test]
    fn a_pin_holds_and_a_promotion_lets_go() {
        let mut known = known();
        follow(&mut known, Order::Pin(4)).expect("it is there");
        assert_eq!(live(&known), (4, Some(4)));
        assert_eq!(known.aliases[LIVE].moves.len(), 3, "it was there already");
        follow(&mut known, Order::Promote(2)).expect("it is there");
        assert_eq!(live(&known), (2, None));
        assert_eq!(known.live_due(Some(6)).map(|one| one.version), Some(6));
    }

    #[test]
    fn what_was_rejected_or_abandoned_is_served_only_when_that_is_insisted_on() {
        let mut known = known();
        let said = follow(&mut known, Order::Promote(3)).expect_err("it was rejected").to_string();
        assert!(said.contains("calibration is 9") && said.contains("--force"), "{said}");
        assert_eq!(follow(&mut known, Order::Pin(5)), Err(MoveError::Abandoned(5)));
        assert_eq!(follow(&mut known, Order::Pin(7)), Err(MoveError::NoVersion(7)));
        let forced = plan(&known, LIVE, Order::Promote(3), OnUnfit::Accept, act("t")).expect("it is there");
        assert_eq!(forced.alias.map(|alias| alias.version), Some(3));
    }

    #[test]
    fn an_alias_that_is_not_there_is_made_by_a_promotion_and_by_nothing_else() {
        let known = known();
        let on = |order| plan(&known, "candidate", order, OnUnfit::Refuse, act("t"));
        assert_eq!(on(Order::Rollback(None)), Err(MoveError::NoAlias("candidate".to_owned())));
        assert_eq!(on(Order::Promote(6)).expect("it is there").alias.map(|alias| alias.moves[0].previous), Some(None));
        assert!(matches!(plan(&known, "../x", Order::Pin(6), OnUnfit::Refuse, act("t")), Err(MoveError::Name(_))));
    }

    #[test]
    fn what_was_announced_while_live_was_let_go_is_live_then_and_nothing_that_was_not_good() {
        let mut known = known();
        assert_eq!(resumed(&known, act("later")).map(|alias| alias.version), Some(6), "nobody holds it");
        follow(&mut known, Order::Pin(2)).expect("it is there");
        assert_eq!(resumed(&known, act("later")), None, "it is held");
        follow(&mut known, Order::Resume).expect("it is held");
        assert_eq!((live(&known), resumed(&known, act("later"))), ((6, None), None));
        // The worker saw the hold, and did not move it.
        known.announced.insert(7, announced(7));
        known.announced.insert(8, Announcement { held: Some("calibration is 9".to_owned()), ..announced(8) });
        let moved = resumed(&known, act("later")).expect("version 7 is good");
        assert_eq!((moved.version, moved.moves[0].version), (7, 7));
    }

    #[test]
    fn an_alias_that_somebody_else_moved_goes_back_to_its_hold() {
        let mut known = known();
        follow(&mut known, Order::Pin(2)).expect("it is there");
        let overtaken = Alias::moved(known.aliases.get(LIVE), LIVE, &known.announced[&6], act("t"));
        known.aliases.insert(LIVE.to_owned(), overtaken);
        assert_eq!(known.live_due(Some(6)).map(|one| one.version), Some(2));
        known.announced.remove(&2);
        assert_eq!(known.live_due(Some(6)), None, "what it is held at is gone: it stays where it is");
    }
}
