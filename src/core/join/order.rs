//! Numbers of records in the order of (event time, impression id): a list of short sorted lists, 4 bytes a number.
//!
//! Nearly all come after those that are there, and most go from the front: neither searches. Invariants: no list is empty
//! or longer than [`LIST_MAX`]; `first` of a list is the time of its first number; numbers ascend by key through all lists.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::form;
use super::records::{Number, Records};

/// The most numbers in a list.
const LIST_MAX: usize = 256;

#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    lists: VecDeque<List>,
    len: usize,
}

#[derive(Clone, Debug)]
struct List {
    first: i64,
    numbers: VecDeque<Number>,
}

/// Event time and impression id: the order in which impressions mature and are forgotten.
type Key<'a> = (i64, &'a [u8]);

fn key(records: &Records, number: Number) -> Key<'_> {
    (records.time(number), form::id(records.get(number)))
}

/// How a record stands to a key; its bytes are read only where times are equal.
fn compare(records: &Records, number: Number, (time, id): Key<'_>) -> Ordering {
    records.time(number).cmp(&time).then_with(|| form::id(records.get(number)).cmp(id))
}

impl Order {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Time and number of the first.
    pub(super) fn first(&self) -> Option<(i64, Number)> {
        self.lists.front().map(|list| (list.first, list.numbers[0]))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Number> {
        self.lists.iter().flat_map(|list| list.numbers.iter().copied())
    }

    pub(super) fn insert(&mut self, number: Number, records: &Records) {
        self.len += 1;
        let key = key(records, number);
        let first = key.0;
        let is_last = |list: &List| compare(records, list.numbers[list.numbers.len() - 1], key) == Ordering::Less;
        let last = self.lists.back_mut();
        if let Some(list) = last.filter(|list| is_last(list)) {
            if list.numbers.len() < LIST_MAX {
                list.numbers.push_back(number);
            } else {
                self.lists.push_back(List { first, numbers: VecDeque::from([number]) });
            }
            return;
        }
        let Some((place, at)) = self.find(key, records) else {
            self.insert_before(0, first, number);
            return;
        };
        let list = &mut self.lists[place];
        if list.numbers.len() < LIST_MAX {
            list.numbers.insert(at, number);
        } else if at == LIST_MAX {
            self.insert_before(place + 1, first, number);
        } else {
            let numbers = list.numbers.split_off(at);
            list.numbers.push_back(number);
            list.numbers.shrink_to_fit();
            self.put_before(place + 1, List { first: records.time(numbers[0]), numbers });
        }
    }

    /// Puts a list before another, into that if it fits: where keys come backwards below a late one, each would have its own else.
    fn put_before(&mut self, place: usize, list: List) {
        match self.lists.get_mut(place).filter(|next| next.numbers.len() + list.numbers.len() <= LIST_MAX) {
            Some(next) => {
                next.first = list.first;
                list.numbers.into_iter().rev().for_each(|number| next.numbers.push_front(number));
            }
            None => self.lists.insert(place, list),
        }
    }

    /// Puts a number at the front of a list that all of its numbers come after, or into one of its own before that.
    fn insert_before(&mut self, place: usize, time: i64, number: Number) {
        match self.lists.get_mut(place).filter(|list| list.numbers.len() < LIST_MAX) {
            Some(list) => {
                list.numbers.push_front(number);
                list.first = time;
            }
            None => self.lists.insert(place, List { first: time, numbers: VecDeque::from([number]) }),
        }
    }

    /// Takes out a number that is there.
    pub(super) fn remove(&mut self, number: Number, records: &Records) {
        let (place, at) = self.find(key(records, number), records).expect("only what is there is taken out");
        debug_assert_eq!(self.lists[place].numbers.get(at), Some(&number), "keys are distinct");
        self.remove_at(place, at, records);
    }

    /// Takes out the first.
    pub(super) fn pop_first(&mut self, records: &Records) -> Option<Number> {
        let (_, number) = self.first()?;
        self.remove_at(0, 0, records);
        Some(number)
    }

    fn remove_at(&mut self, place: usize, at: usize, records: &Records) {
        self.len -= 1;
        let list = &mut self.lists[place];
        list.numbers.remove(at);
        match list.numbers.front() {
            None => {
                self.lists.remove(place);
            }
            Some(&first) if at == 0 => list.first = records.time(first),
            Some(_) => {}
        }
    }

    /// The list that a key belongs into, and its place there; `None` if it is before the first of all.
    fn find(&self, key: Key<'_>, records: &Records) -> Option<(usize, usize)> {
        let begins_at_most_at = |list: &List| match list.first.cmp(&key.0) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => compare(records, list.numbers[0], key) != Ordering::Greater,
        };
        let place = self.lists.partition_point(begins_at_most_at).checked_sub(1)?;
        let at = self.lists[place].numbers.partition_point(|&number| compare(records, number, key) == Ordering::Less);
        Some((place, at))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::state::ImpressionState;
    use super::*;

    type Expected = BTreeMap<(i64, String), Number>;

    fn insert(order: &mut Order, records: &mut Records, expected: &mut Expected, time: i64, id: String) {
        if expected.contains_key(&(time, id.clone())) {
            return;
        }
        let mut record = Vec::new();
        form::write(&mut record, &id, &ImpressionState::Positive);
        let number = records.insert(time, &record);
        order.insert(number, records);
        expected.insert((time, id), number);
    }

    fn check(order: &Order, records: &Records, expected: &Expected) {
        assert!(order.iter().eq(expected.values().copied()));
        assert_eq!(order.len(), expected.len());
        assert_eq!(order.first(), expected.first_key_value().map(|(key, number)| (key.0, *number)));
        for list in &order.lists {
            assert!(!list.numbers.is_empty() && list.numbers.len() <= LIST_MAX);
            assert_eq!(list.first, records.time(list.numbers[0]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn numbers_are_in_the_order_of_time_and_id(
            calls in vec((0_u8..5, 0_i64..40, 0_u16..300, any::<prop::sample::Index>()), 1..3000),
            at_a_time in 1_usize..40,
        ) {
            let (mut order, mut records, mut expected) = (Order::default(), Records::default(), Expected::new());
            for (place, (call, time, id, which)) in calls.into_iter().enumerate() {
                match call {
                    0 if !expected.is_empty() => {
                        let key = which.get(&expected.keys().cloned().collect::<Vec<_>>()).clone();
                        let number = expected.remove(&key).expect("it is there");
                        order.remove(number, &records);
                        records.remove(number);
                    }
                    1 => {
                        let popped = order.pop_first(&records);
                        prop_assert_eq!(popped, expected.pop_first().map(|(_, number)| number));
                        if let Some(number) = popped {
                            records.remove(number);
                        }
                    }
                    _ => insert(&mut order, &mut records, &mut expected, time, format!("i{id}")),
                }
                if place.is_multiple_of(100 * at_a_time) {
                    check(&order, &records, &expected);
                }
            }
            check(&order, &records, &expected);
        }
    }

    #[test]
    fn lists_fill_whichever_way_numbers_come() {
        let ways: [fn(i64) -> i64; 6] = [
            |at| at,
            |at| -at,
            |at| if at % 50 == 0 { 1_000_000 + at } else { at },
            |at| at / 1000,
            |at| if at < 10_000 { at / 5000 * 100_000 } else { 90_000 - at },
            |at| if at < 255 { at } else { 900_000 - at },
        ];
        for (way, time) in ways.into_iter().enumerate() {
            let (mut order, mut records, mut expected) = (Order::default(), Records::default(), Expected::new());
            for at in 0..20_000 {
                insert(&mut order, &mut records, &mut expected, time(at), format!("{at:06}"));
            }
            check(&order, &records, &expected);
            let lists = order.lists.len();
            assert!(lists < 2 * 20_000 / LIST_MAX, "way {way}: {lists} lists");
        }
    }
}
