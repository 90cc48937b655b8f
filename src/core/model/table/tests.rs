//! What a table keeps, forgets and says of itself.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_128;

use super::super::candidates::Candidates;
use super::super::executor::Inline;
use super::super::slot::SlotKey;
use super::super::weights::{Precision, RowHasher, WeightRule};
use super::touched::Subscriber;
use super::*;
use crate::feature::hash::mix64;
use crate::optim::params::FtrlParams;

fn filled(rows: u64) -> Table {
    let mut table = Table::new(10);
    for id in 0..rows {
        let row = table.insert(mix64(id));
        table.write(row, (id as f32, &[id as f32; 10]), (1.0, &[1.0; 10]), 7);
    }
    table
}

#[test]
fn what_is_copied_out_does_not_show_the_key_of_places() {
    let bytes = |seed| {
        let mut table = Table { key: SlotKey { key: mix64(seed), factor: mix64(!seed) | 1 }, ..Table::new(2) };
        let mut copied = table.copy_all();
        for id in 0..12_000_u64 {
            let row = table.insert(mix64(id));
            table.write(row, (0.5, &[0.25; 2]), (1.0, &[1.0; 2]), (id % 50) as u32);
        }
        copied.extend(table.copy_unsaved().expect("everything was saved before"));
        for shard in 0..SHARDS {
            table.sweep(shard, 3);
        }
        table.evict(1500);
        for id in 20_000..21_000_u64 {
            table.insert(mix64(id));
        }
        copied.extend(table.copy_unsaved().expect("everything was saved before"));
        copied.extend(table.copy_all());
        (table.digest(), copied)
    };
    let (one, other) = (bytes(1), bytes(2));
    assert_eq!(one.0, other.0);
    assert!(one.1 == other.1, "copies differ");
}

#[test]
fn the_rows_seen_the_longest_ago_make_room_at_equal_times_the_lowest_ids() {
    let mut table = Table::new(1);
    for id in 1..=10_u64 {
        let row = table.insert(id);
        table.write(row, (0.0, &[0.0]), (0.0, &[0.0]), if id <= 4 { 20 } else { 10 });
    }
    assert_eq!(table.evict(3), 3);
    let left: Vec<u64> = (1..=10).filter(|id| table.find(*id).is_some()).collect();
    assert_eq!(left, [1, 2, 3, 4, 8, 9, 10]);
    assert_eq!((table.evict(100), table.len()), (7, 0));
}

#[test]
fn a_large_table_makes_room_a_shard_at_a_time_and_keeps_nearly_all_of_the_newest() {
    let mut table = Table::new(1);
    for id in 0..100_000_u64 {
        let row = table.insert(mix64(id));
        table.write(row, (0.0, &[0.0]), (0.0, &[0.0]), id as u32);
    }
    let mut evicted = 0;
    while evicted < 10_000 {
        let now = table.evict(100);
        assert!((100..200).contains(&now), "{now} at once");
        evicted += now;
    }
    assert_eq!(table.len(), 100_000 - evicted);
    let newest_gone = (14_000..100_000_u64).filter(|id| table.find(mix64(*id)).is_none()).count();
    assert!(newest_gone < 1_000, "{newest_gone} went that were younger than 14 in 100");
    assert_eq!(table.digest(), recomputed(&table));
}

fn recomputed(table: &Table) -> u128 {
    table.rows().fold(0, |sum, row| sum.wrapping_add(xxh3_128(row)))
}

#[test]
fn a_row_is_104_bytes_at_dimension_10_and_at_most_115_with_its_share_of_the_index_or_126_at_the_bound() {
    for rows in [300_000, 470_000, 1_000_000] {
        let mut table = filled(rows);
        assert_eq!(table.row_bytes(), 104);
        let each = table.bytes() as f64 / rows as f64;
        assert!(each <= 115.0, "{each} bytes a row at {rows} rows");
        // At the bound rows come and go, and each shard keeps the room of the most it had.
        table.digest();
        for id in rows..2 * rows {
            table.evict((table.len() + 1).saturating_sub(rows as usize));
            table.insert(mix64(id));
            if id % 1000 == 0 {
                table.digest();
            }
        }
        let each = table.bytes() as f64 / rows as f64;
        assert!(each <= 126.0, "{each} bytes a row at a bound of {rows} rows");
    }
}

#[test]
fn every_id_finds_its_own_row_and_no_other() {
    let table = filled(10_000);
    for id in 0..10_000 {
        let row = table.find(mix64(id)).expect("it was inserted");
        assert_eq!(table.state(row)[0], id as f32);
        assert_eq!(table.head(row), RowHead { id: mix64(id), last_seen: 7, count: 1 });
    }
    assert_eq!(table.find(mix64(10_000)), None);
}

#[test]
fn the_digest_kept_from_changes_is_the_digest_of_all_rows() {
    let mut table = filled(5000);
    assert_eq!(table.digest(), recomputed(&table));
    for id in [3, 4999, 3] {
        let row = table.find(mix64(id)).expect("it was inserted");
        table.write(row, (-1.0, &[-1.0; 10]), (2.0, &[2.0; 10]), 9);
    }
    let untaken: usize = table.shards.iter().map(|shard| shard.touched_len(Subscriber::Digest)).sum();
    assert_eq!(untaken, 2, "a digest costs what changed");
    assert_eq!(table.digest(), recomputed(&table));
}

#[test]
fn the_digest_does_not_depend_on_the_order_of_creation_and_rows_survive_as_bytes() {
    let mut table = filled(2000);
    let mut reversed = Table::new(10);
    let rows: Vec<Vec<u8>> = table.rows().map(<[u8]>::to_vec).collect();
    rows.iter().rev().for_each(|row| reversed.restore(row).expect("each id has one row"));
    assert_eq!(reversed.digest(), table.digest());
}

#[test]
fn a_copy_has_what_changed_since_the_last_one_whatever_digests_were_taken_between() {
    let mut table = filled(100);
    assert_eq!(table.copy_unsaved(), None, "nothing was saved before");
    assert_eq!(table.copy_all().len(), 100 * table.row_bytes());
    let row = table.find(mix64(7)).expect("it was inserted");
    table.write(row, (5.0, &[5.0; 10]), (2.0, &[2.0; 10]), 9);
    table.digest();
    let new = table.insert(12_345);
    table.write(new, (1.0, &[1.0; 10]), (1.0, &[1.0; 10]), 9);
    table.digest();
    let copied = table.copy_unsaved().expect("everything was saved before");
    let mut changed = [row, new];
    changed.sort_unstable();
    let bytes = |row: &RowNumber| table.shards[row.shard as usize].row_bytes(row.at).to_vec();
    let expected: Vec<u8> = changed.iter().flat_map(bytes).collect();
    assert_eq!(copied, expected);
    assert_eq!(table.copy_unsaved(), Some(Vec::new()));
}

#[test]
fn a_sweep_removes_exactly_what_was_last_seen_before_whatever_was_swept_and_seen_meanwhile() {
    let (mut table, mut candidates) = (Table::new(2), Candidates::default());
    let (mut rows, mut counted) = (BTreeMap::new(), BTreeMap::new());
    let mut dice = 5_u64;
    let mut roll = |sides: u64| {
        dice = mix64(dice);
        dice % sides
    };
    let mut removed = 0;
    for round in 0..400_u32 {
        for _ in 0..roll(30) {
            // Times grow, and some lie far back.
            let (id, seconds) = (mix64(roll(2000)), round + 50 - roll(50) as u32);
            let row = table.find(id).unwrap_or_else(|| table.insert(id));
            table.write(row, (1.0, &[1.0; 2]), (1.0, &[1.0; 2]), seconds);
            candidates.count_once(id, seconds);
            for seen in [&mut rows, &mut counted] {
                let seen = seen.entry(id).or_insert(seconds);
                *seen = seconds.max(*seen);
            }
        }
        let before = (round + 20).saturating_sub(roll(60) as u32);
        for number in 0..SHARDS {
            let is_old = |id: &u64, seen: &mut u32| shard(*id) == number && *seen < before;
            let (old_rows, old) = (rows.extract_if(.., is_old).count(), counted.extract_if(.., is_old).count());
            assert_eq!((table.sweep(number, before), candidates.sweep(number, before)), (old_rows, old));
            removed += old;
        }
        assert_eq!((table.len(), candidates.len()), (rows.len(), counted.len()));
    }
    assert!(removed > 1000 && !rows.is_empty());
}

#[test]
fn rows_that_were_not_seen_for_long_are_removed_and_their_places_used_again() {
    let mut table = filled(1000);
    table.copy_all();
    let kept = table.find(mix64(3)).expect("it was inserted");
    table.write(kept, (1.0, &[1.0; 10]), (1.0, &[1.0; 10]), 50);
    let removed: usize = (0..SHARDS).map(|shard| table.sweep(shard, 8)).sum();
    assert_eq!((removed, table.len()), (999, 1));
    assert_eq!(table.find(mix64(4)), None);
    assert_eq!(table.digest(), recomputed(&table));
    let back = table.insert(mix64(4));
    table.write(back, (2.0, &[2.0; 10]), (2.0, &[2.0; 10]), 60);
    let places: u32 = table.shards.iter().map(Shard::places).sum();
    assert_eq!((places, table.len()), (1000, 2), "a place is used again");
    assert_eq!(table.digest(), recomputed(&table));
    let copied = table.copy_unsaved().expect("everything was saved before");
    assert_eq!(copied.len(), 1000 * table.row_bytes(), "two rows and 998 tombstones");
    let tombstones = copied.chunks_exact(table.row_bytes()).filter(|row| row[12..16] == [0; 4]).count();
    assert_eq!(tombstones, 998);
}

#[test]
fn rows_that_come_and_go_take_no_more_memory_when_nobody_asks_for_a_digest() {
    let mut table = Table::new(2);
    let come_and_go = |table: &mut Table, from: u64| {
        for id in from..from + 40_000 {
            let row = table.insert(mix64(id));
            table.write(row, (0.5, &[0.5; 2]), (1.0, &[1.0; 2]), id as u32);
            table.evict(table.len().saturating_sub(2_000));
        }
    };
    come_and_go(&mut table, 0);
    let bytes = table.bytes();
    come_and_go(&mut table, 40_000);
    assert!(table.bytes() <= bytes + bytes / 10, "{} bytes became {}", bytes, table.bytes());
    let kept = table.digest();
    assert_eq!(kept, recomputed(&table));
}

#[test]
fn a_row_that_is_not_finite_is_not_taken_back() {
    let mut table = filled(3);
    let row = table.rows().next().expect("there are some").to_vec();
    table.remove_aged(u64::from_le_bytes(*row.first_chunk().expect("it begins with its id")));
    for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut faulty = row.clone();
        faulty[row.len() - 4..].copy_from_slice(&fault.to_le_bytes());
        assert!(matches!(table.restore(&faulty), Err(RowError::NotFinite(_))));
    }
    table.restore(&row).expect("it is whole");
}

#[test]
fn small_consecutive_ids_spread_over_the_shards() {
    let mut table = Table::new(1);
    for id in 0..25_600 {
        table.insert(id);
    }
    let largest = table.shards.iter().map(Shard::len).max().expect("there are shards");
    assert!(largest < 200, "a shard holds {largest} of 25,600 ids where 100 are due");
}

/// The weights of a table, as a server that has every version would have them.
#[derive(Clone, Default, PartialEq)]
struct Copy {
    rows: std::collections::BTreeMap<u64, (f32, Vec<f32>)>,
    digest: u128,
}

const RULE: WeightRule = {
    let group = FtrlParams { alpha: 0.1, beta: 1.0, l1: 0.25, l2: 0.01, l21: 0.0 };
    WeightRule { linear: group, embedding: FtrlParams { l21: 0.05, ..group } }
};

impl Copy {
    fn of(table: &Table, precision: Precision) -> Self {
        let (mut copy, mut v) = (Self::default(), [0.0; 2]);
        for row in table.numbers() {
            let linear = precision.round(RULE.weights(table.state(row), &mut v));
            v = v.map(|weight| precision.round(weight));
            copy.rows.insert(table.head(row).id, (linear, v.to_vec()));
            copy.digest = copy.digest.wrapping_add(RowHasher::default().hash(table.head(row).id, linear, &v));
        }
        copy
    }

    fn apply(&mut self, changes: &Changes) {
        changes.gone.iter().for_each(|id| drop(self.rows.remove(id)));
        for ((id, linear), v) in changes.ids.iter().zip(&changes.linear).zip(changes.embeddings.chunks(2)) {
            self.rows.insert(*id, (*linear, v.to_vec()));
        }
        self.digest = self.digest.wrapping_sub(changes.left).wrapping_add(changes.entered);
    }
}

fn touch(table: &mut Table, id: u64, dice: u64) {
    let row = table.find(id).unwrap_or_else(|| table.insert(id));
    let mut v = [0.0; 2];
    let weight = RULE.weights(table.state(row), &mut v);
    let value = (dice % 1000) as f32 / 100.0;
    let written = Written { z: (value, &[-value, 0.5]), n: (value, &[1.0; 2]), w: (weight, &v) };
    table.write_all(1, |_| Some(row), |_| written, (dice % 50) as u32, (&Inline, 1));
}

#[test]
fn changes_taken_one_after_the_other_make_every_copy_the_table() {
    changes_make_copies(Precision::F32);
    changes_make_copies(Precision::F16);
}

fn changes_make_copies(precision: Precision) {
    let mut table = Table::new(2);
    let mut dice = 1_u64;
    let mut roll = |sides: u64| {
        dice = mix64(dice);
        dice % sides
    };
    assert_eq!(table.take_changes(), None, "nothing was published that anything could have changed since");
    for id in 0..300 {
        touch(&mut table, mix64(id), id);
    }
    table.note_published(RULE, precision);
    let mut copy = Copy::of(&table, precision);
    for round in 0..200 {
        for _ in 0..roll(40) {
            touch(&mut table, mix64(roll(600)), mix64(roll(1 << 40)));
        }
        if round % 3 == 0 {
            table.evict(roll(20) as usize);
        }
        if round % 5 == 0 {
            table.sweep(roll(SHARDS as u64) as usize, 25);
        }
        let untaken = match roll(4) {
            // A version that could not be written: it was as if it had never been cut.
            0 => table.take_changes().map(|changes| changes.untaken()),
            _ => None,
        };
        for _ in 0..roll(10) {
            touch(&mut table, mix64(roll(600)), mix64(roll(1 << 40)));
        }
        table.evict(roll(5) as usize);
        if let Some(untaken) = untaken {
            table.give_back(untaken);
        }
        if roll(3) > 0 {
            let changes = table.take_changes().expect("it is noted");
            copy.apply(&changes);
            assert!(copy == Copy::of(&table, precision), "round {round}");
        }
    }
    assert_eq!(table.digest(), recomputed(&table));
    table.forget_published();
    assert_eq!((table.take_changes(), table.changed_len()), (None, None));
}
