//! Which checkpoint to go on from, as a function of what the witness says and what the databases hold. Nothing is read here:
//! whoever asks reads what the answer wants to know, and asks again.
//!
//! Databases are looked at from the newest to the oldest, until one has what it must have. `known` is the newest commit
//! that the witness knows: all that was acknowledged. What the witness says of a database, and what is found in it:
//!
//! | of the database the witness says | no head | its head | is |
//! |---|---|---|---|
//! | nothing, it is newer than all the witness knows: a successor | passed over: a commit or merge was cut short | after `known` | taken |
//! | | | after `known`, whole up to `known` or more | cut there, with a fault |
//! | | | after `known`, whole up to less | passed over: the older has what was acknowledged |
//! | | | at `known` or before | passed over |
//! | | | damaged | passed over; a fault where `known` is 0 |
//! | | | of several layers, where `known` is 0 | a fault: there was a witness once |
//! | it has the newest commit, and the one before | a fault | at the newest or after, where it was the newest | taken as it is now: a commit more was durable, and not acknowledged |
//! | | | at the one before | cut there, with a fault |
//! | | | any of these, but whole only up to some layer | cut there, with a fault |
//! | | | anything else, damaged | a fault |
//! | it has taken no commit since this one: the database before, or one that was fallen back to | a fault | at it or after | cut there |
//! | | | at it or after, but whole only up to some layer | cut there, with a fault |
//! | | | anything else, damaged | a fault |
//! | nothing, and it is no successor | never looked at | | |
//!
//! A checkpoint that is taken with a fault is older than something that was acknowledged; its faults are told. So is that an
//! earlier start fell back, until something newer than what it fell back to is taken. Where nothing is taken, the faults are
//! the reason why there is no state; without any, there never was one.

use std::collections::BTreeMap;

use super::database::Head;
use super::witness::{Testimony, Witness, number};

/// What is known of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It opens, and has no commit.
    Empty,
    /// It is at this commit, as far as its layers were not read yet.
    At(Head),
    /// It is at this commit, but only so many of its layers are whole.
    Torn { head: Head, whole: usize, reason: String },
    /// Something in it is not as it was written.
    Damaged(String),
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Look into this database.
    Look(String),
    /// Go on from this commit.
    Take(Taken),
    /// There never was a checkpoint.
    Fresh,
    /// There was one, and none is whole.
    Lost(Vec<String>),
}

/// A commit to go on from, if its layers are whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its database.
    pub(super) name: String,
    /// The head, cut where it is to be gone on from.
    pub(super) head: Head,
    /// Why it is not the newest.
    pub(super) faults: Vec<String>,
}

/// What to do next; `names` are the databases, the newest first, `findings` what is known of them.
pub(super) fn choose(witness: Option<&Witness>, names: &[String], findings: &BTreeMap<String, Finding>) -> Choice {
    let known = witness.map_or(0, |witness| witness.newest.commit);
    let mut faults: Vec<String> = Vec::new();
    if let Some(Witness { newest, .. }) = witness
        && !names.contains(&newest.directory)
    {
        faults.push(format!("{} is gone", newest.directory));
    }
    // Whoever started then may not have lived to say it.
    let fell_back = witness
        .filter(|witness| witness.has_fallen_back())
        .map(|_| format!("an earlier start fell back to checkpoint {known}"));
    for name in names {
        let expected = expectation(name, witness);
        if matches!(expected, Expectation::Nothing) {
            continue;
        }
        let Some(finding) = findings.get(name) else {
            return Choice::Look(name.clone());
        };
        match judge(name, finding, &expected, known) {
            Verdict::PassedOver => {}
            Verdict::Fault(fault) => faults.push(format!("{name}: {fault}")),
            Verdict::Good { head, fault } => {
                // With a commit since, there is nothing to say any more.
                faults.extend(fell_back.filter(|_| head.commit() <= known));
                faults.extend(fault);
                return Choice::Take(Taken { name: name.clone(), head, faults });
            }
        }
    }
    faults.extend(fell_back);
    if known > 0 {
        faults.push(format!("the witness knows checkpoint {known}, and none that is whole was found"));
    }
    if faults.is_empty() { Choice::Fresh } else { Choice::Lost(faults) }
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
    let Some(witness @ Witness { newest, before, other, passed_over, .. }) = witness else {
        return Expectation::Successor;
    };
    match other {
        _ if newest.directory == name && witness.has_fallen_back() => Expectation::Closed(newest),
        _ if newest.directory == name => Expectation::Newest(newest, before.as_ref()),
        Some(other) if other.directory == name => Expectation::Closed(other),
        _ if number(name) > number(&newest.directory).max(Some(*passed_over)) => Expectation::Successor,
        _ => Expectation::Nothing,
    }
}

enum Verdict {
    PassedOver,
    /// It has not what it must have.
    Fault(String),
    /// To be gone on from, with what is wrong with something newer.
    Good {
        head: Head,
        fault: Option<String>,
    },
}

/// Judges a database by its head, and cuts that where its layers cease to be whole.
fn judge(name: &str, finding: &Finding, expected: &Expectation<'_>, known: u64) -> Verdict {
    let (head, torn) = match (finding, expected) {
        (Finding::At(head), _) => (head, None),
        (Finding::Torn { head, whole, reason }, _) => (head, Some((*whole, reason))),
        // A fresh database without a commit: a merge or a commit was cut short.
        (Finding::Empty, Expectation::Successor) => return Verdict::PassedOver,
        (Finding::Empty, _) => return Verdict::Fault("it is empty".to_owned()),
        // One that the witness does not know of holds nothing that was acknowledged.
        (Finding::Damaged(_), Expectation::Successor) if known > 0 => return Verdict::PassedOver,
        (Finding::Damaged(reason), _) => return Verdict::Fault(reason.clone()),
    };
    match (judge_head(name, head, expected, known), torn) {
        (Verdict::Good { head, fault }, Some((whole, reason))) if whole < head.layers.len() => {
            let head = Head { layers: head.layers[..whole].to_vec() };
            match expected {
                // The older database may have more that was acknowledged.
                Expectation::Successor if known > 0 && head.commit() < known => Verdict::PassedOver,
                _ if head.layers.is_empty() => Verdict::Fault(reason.clone()),
                _ => Verdict::Good { head, fault: fault.or_else(|| Some(reason.clone())) },
            }
        }
        (verdict, _) => verdict,
    }
}

fn judge_head(name: &str, head: &Head, expected: &Expectation<'_>, known: u64) -> Verdict {
    let good = |head| Verdict::Good { head, fault: None };
    let testified = |testimony: &Testimony| head.at(testimony.commit).filter(|at| at.digest() == testimony.digest);
    let differs = |commit: u64| format!("{name} is at checkpoint {}, the witness knows {commit}", head.commit());
    match expected {
        Expectation::Newest(newest, before) => match (testified(newest), before) {
            (Some(_), _) => good(head.clone()),
            (None, Some(before)) if head.commit() == before.commit => match testified(before) {
                Some(head) => Verdict::Good { head, fault: Some(differs(newest.commit)) },
                None => Verdict::Fault(differs(before.commit)),
            },
            (None, _) => Verdict::Fault(differs(newest.commit)),
        },
        Expectation::Closed(testimony) => {
            testified(testimony).map_or_else(|| Verdict::Fault(differs(testimony.commit)), good)
        }
        Expectation::Successor if known == 0 && head.layers.len() > 1 => {
            Verdict::Fault(format!("it is at checkpoint {}, and there is no witness of any", head.commit()))
        }
        Expectation::Successor if head.commit() > known => good(head.clone()),
        Expectation::Successor | Expectation::Nothing => Verdict::PassedOver,
    }
}

#[cfg(test)]
mod tests;
