//! Every row of the table, and every combination of a small world held against what must be true of any choice.

use super::super::database::LayerHead;
use super::*;
use deepfm_core::train::Scope;

/// A head with these commits; `tag` tells apart layers that were written differently.
fn head(commits: &[u64], tag: u8) -> Head {
    let layer = |(at, commit): (usize, &u64)| LayerHead {
        commit: *commit,
        scope: if at == 0 { Scope::Everything } else { Scope::Changes },
        blocks: 1,
        bytes: 100,
        digest: [tag; 32],
    };
    Head { layers: commits.iter().enumerate().map(layer).collect() }
}

fn testimony(directory: &str, head: &Head) -> Testimony {
    Testimony { commit: head.commit(), directory: directory.to_owned(), digest: head.digest() }
}

/// The databases of a life with a commit of everything at 1, a merge at 3 that commit 4 went to, and one at 5 that commit 6
/// went to.
const LIFE: [(&str, &[u64]); 3] = [("base-1", &[1, 2, 3]), ("base-2", &[3, 4, 5]), ("base-3", &[5, 6])];

fn witness(newest: (&str, &[u64]), before: bool, other: Option<(&str, &[u64])>, passed_over: u64) -> Witness {
    let (directory, commits) = newest;
    let earlier = (before && commits.len() > 1).then(|| testimony(directory, &head(&commits[..commits.len() - 1], 0)));
    let other = other.map(|(directory, commits)| testimony(directory, &head(commits, 0)));
    Witness { written: 9, newest: testimony(directory, &head(commits, 0)), before: earlier, other, passed_over }
}

/// Asks until there is an answer; looks into the newest databases first, and into none twice.
fn settle(witness: Option<&Witness>, world: &BTreeMap<String, Finding>) -> Choice {
    let names: Vec<String> = world.keys().rev().cloned().collect();
    let mut findings = BTreeMap::new();
    let mut last = None;
    loop {
        match choose(witness, &names, &findings) {
            Choice::Look(name) => {
                assert!(last.as_ref().is_none_or(|last| name < *last), "{name} after {last:?}");
                findings.insert(name.clone(), world[&name].clone());
                last = Some(name);
            }
            answer => return answer,
        }
    }
}

fn world(found: &[(&str, Finding)]) -> BTreeMap<String, Finding> {
    found.iter().map(|(name, finding)| ((*name).to_owned(), finding.clone())).collect()
}

/// What is taken: database, commit, whether with a fault.
fn taken(choice: &Choice) -> Option<(&str, u64, bool)> {
    match choice {
        Choice::Take(taken) => Some((&taken.name, taken.head.commit(), !taken.faults.is_empty())),
        _ => None,
    }
}

#[test]
fn each_row_of_the_table_is_as_it_says() {
    let at = |commits: &[u64]| Finding::At(head(commits, 0));
    let damaged = || Finding::Damaged("torn".to_owned());
    let closed = ("base-1", &[1_u64, 2, 3][..]);
    let newest = witness(("base-2", &[3, 4, 5]), true, Some(closed), 0);
    let with = |found: &[(&str, Finding)]| settle(Some(&newest), &world(found));
    let good = ("base-2", at(&[3, 4, 5]));
    // A successor.
    assert_eq!(taken(&with(&[good.clone(), ("base-3", Finding::Empty)])), Some(("base-2", 5, false)));
    assert_eq!(taken(&with(&[good.clone(), ("base-3", at(&[5, 6]))])), Some(("base-3", 6, false)));
    assert_eq!(taken(&with(&[good.clone(), ("base-3", at(&[5]))])), Some(("base-2", 5, false)));
    assert_eq!(taken(&with(&[good.clone(), ("base-3", damaged())])), Some(("base-2", 5, false)));
    let torn = |commits: &[u64], whole| Finding::Torn { head: head(commits, 0), whole, reason: "torn".to_owned() };
    assert_eq!(taken(&with(&[good.clone(), ("base-3", torn(&[5, 6], 1))])), Some(("base-3", 5, true)));
    assert_eq!(taken(&with(&[good.clone(), ("base-3", torn(&[4, 5, 6], 1))])), Some(("base-2", 5, false)));
    assert_eq!(taken(&with(&[good.clone(), ("base-3", torn(&[5, 6], 0))])), Some(("base-2", 5, false)));
    assert_eq!(taken(&with(&[("base-3", torn(&[5, 6], 1))])), Some(("base-3", 5, true)), "base-2 is gone");
    let alone = |finding| settle(None, &world(&[("base-1", finding)]));
    assert_eq!(alone(Finding::Empty), Choice::Fresh);
    assert_eq!(taken(&alone(at(&[1]))), Some(("base-1", 1, false)), "the first commit, before its witness");
    assert!(matches!(alone(at(&[1, 2])), Choice::Lost(_)), "a second commit had a witness");
    assert!(matches!(alone(damaged()), Choice::Lost(_)));
    // The newest.
    let behind = |finding| with(&[("base-1", at(&[1, 2, 3])), ("base-2", finding)]);
    assert_eq!(taken(&behind(at(&[3, 4, 5, 6]))), Some(("base-2", 6, false)), "durable, not acknowledged");
    assert_eq!(taken(&behind(at(&[3, 4]))), Some(("base-2", 4, true)));
    assert_eq!(taken(&behind(torn(&[3, 4, 5], 2))), Some(("base-2", 4, true)));
    assert_eq!(taken(&behind(torn(&[3, 4, 5, 6], 3))), Some(("base-2", 5, true)), "6 was not acknowledged");
    assert_eq!(taken(&behind(torn(&[3, 4, 5], 0))), Some(("base-1", 3, true)));
    for fault in [at(&[3]), Finding::At(head(&[3, 4, 5], 7)), Finding::At(head(&[3, 4], 7)), Finding::Empty, damaged()]
    {
        assert_eq!(taken(&behind(fault.clone())), Some(("base-1", 3, true)), "{fault:?}");
        assert!(matches!(with(&[("base-2", fault)]), Choice::Lost(_)));
    }
    // The one before.
    let before = |finding| with(&[("base-1", finding), ("base-2", damaged())]);
    assert_eq!(taken(&before(at(&[1, 2, 3, 4]))), Some(("base-1", 3, true)), "what came after was cut off");
    assert_eq!(taken(&before(torn(&[1, 2, 3], 2))), Some(("base-1", 2, true)));
    assert_eq!(taken(&before(torn(&[1, 2, 3, 4], 3))), Some(("base-1", 3, true)), "what is torn was cut off");
    for fault in [at(&[1, 2]), Finding::At(head(&[1, 2, 3], 7)), Finding::Empty, damaged()] {
        assert!(matches!(before(fault), Choice::Lost(_)));
    }
    // One that was fallen back to, past a newer one.
    let fallen = witness(("base-1", &[1, 2]), false, None, 2);
    let choice = settle(Some(&fallen), &world(&[("base-1", at(&[1, 2, 3])), good]));
    assert_eq!(taken(&choice), Some(("base-1", 2, true)));
    // The first commit since, durable before the witness heard of it.
    let choice =
        settle(Some(&fallen), &world(&[("base-1", at(&[1, 2, 3])), ("base-2", damaged()), ("base-3", at(&[6]))]));
    assert_eq!(taken(&choice), Some(("base-3", 6, false)));
}

/// Everything that may be found of a database of the life.
fn findings(commits: &[u64]) -> Vec<Option<Finding>> {
    let mut found = vec![None, Some(Finding::Empty), Some(Finding::Damaged("torn".to_owned()))];
    for end in 1..=commits.len() {
        found.push(Some(Finding::At(head(&commits[..end], 0))));
    }
    found.push(Some(Finding::At(head(commits, 7))));
    found.push(Some(Finding::At(head(&[commits, &[commits[commits.len() - 1] + 1]].concat(), 0))));
    for whole in 0..commits.len() {
        found.push(Some(Finding::Torn { head: head(commits, 0), whole, reason: "torn".to_owned() }));
    }
    found
}

/// Every witness that such a life may have, and some that it may not.
fn witnesses() -> Vec<Option<Witness>> {
    let mut all = vec![None];
    for (at, (directory, commits)) in LIFE.iter().enumerate() {
        let earlier = LIFE[..at].iter().map(|other| Some(*other));
        for other in std::iter::once(None).chain(earlier) {
            for passed_over in 0..=3 {
                for before in [false, true] {
                    all.push(Some(witness((directory, commits), before, other, passed_over)));
                }
            }
        }
    }
    all
}

/// What must be true of any choice, whatever rule makes it.
fn check(witness: Option<&Witness>, world: &BTreeMap<String, Finding>, choice: &Choice) {
    let known = witness.map_or(0, |witness| witness.newest.commit);
    let has = |testimony: &Testimony, head: &Head| {
        head.at(testimony.commit).is_some_and(|at| at.digest() == testimony.digest)
    };
    let testimonies: Vec<&Testimony> = witness
        .iter()
        .flat_map(|witness| [Some(&witness.newest), witness.before.as_ref(), witness.other.as_ref()])
        .flatten()
        .collect();
    match choice {
        Choice::Look(_) => panic!("it is settled"),
        Choice::Fresh => {
            assert!(witness.is_none(), "what was acknowledged is never forgotten");
            assert!(world.values().all(|finding| *finding == Finding::Empty));
        }
        Choice::Lost(faults) => assert!(!faults.is_empty()),
        Choice::Take(Taken { name, head, faults, .. }) => {
            let (found, whole) = match &world[name] {
                Finding::At(found) => (found, found.layers.len()),
                Finding::Torn { head, whole, .. } => (head, *whole),
                other => panic!("{name}: {other:?}"),
            };
            assert!(found.layers[..whole].starts_with(&head.layers) && !head.layers.is_empty());
            assert!(head.commit() >= known || !faults.is_empty(), "an older one in silence");
            let testified = testimonies.iter().any(|one| one.directory == *name && has(one, found));
            let newest_known = witness.map(|witness| number(&witness.newest.directory).max(Some(witness.passed_over)));
            let succeeds = newest_known.is_none_or(|newest| number(name) > newest) && head.commit() >= known;
            assert!(testified || succeeds, "{name} is nobody's");
        }
    }
    // What was acknowledged and is whole is never given up, nor doubted.
    if let Some(Witness { newest, passed_over, .. }) = witness
        && let Some(Finding::At(found)) = world.get(&newest.directory)
        && has(newest, found)
    {
        let Choice::Take(taken) = choice else { panic!("checkpoint {known} is there") };
        assert!(taken.head.commit() >= known);
        // A successor that is torn behind what was acknowledged is as good, and its damage is told.
        let is_torn = matches!(world[&taken.name], Finding::Torn { .. });
        let is_fallen_back = number(&newest.directory) <= Some(*passed_over) && taken.head.commit() == known;
        assert_eq!(taken.faults.is_empty(), !is_fallen_back && !is_torn);
    }
}

#[test]
fn no_combination_forgets_what_was_acknowledged_or_takes_what_is_nobodys() {
    let [first, second, third] = LIFE.map(|(_, commits)| findings(commits));
    let mut combinations = 0;
    for witness in witnesses() {
        for one in &first {
            for two in &second {
                for three in &third {
                    let found = [one, two, three].into_iter().zip(LIFE);
                    let there = found.filter_map(|(finding, (name, _))| Some((name, finding.clone()?)));
                    let world = world(&there.collect::<Vec<_>>());
                    check(witness.as_ref(), &world, &settle(witness.as_ref(), &world));
                    combinations += 1;
                }
            }
        }
    }
    assert_eq!(combinations, 49 * 11 * 11 * 9);
}
