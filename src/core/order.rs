//! What waits for its time, in the order of (event time, id): numbers in a list of short sorted lists, 4 bytes each, of values that
//! lie [elsewhere](Keyed).
//!
//! Nearly all come after those that are there, and most go from the front: neither searches. Invariants: no list is empty
//! or longer than [`LIST_MAX`]; `first` of a list is the time of its first number; numbers ascend by key through all lists.

mod slots;

use std::cmp::Ordering;
use std::collections::VecDeque;

pub(crate) use slots::{Number, Slots};

/// Lists that are gone of which the room is kept.
const SPARES_MAX: usize = 4;

/// The most numbers in a list.
const LIST_MAX: usize = 256;

/// The values, by their numbers.
pub(crate) trait Keyed {
    /// What tells values of one time apart.
    type Id<'k>: Ord + Copy
    where
        Self: 'k;

    /// The event time of a value.
    fn time(&self, number: Number) -> i64;

    /// Its id.
    fn id(&self, number: Number) -> Self::Id<'_>;
}

/// Numbers in the order of their values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    lists: VecDeque<List>,
    len: usize,
    /// The room of lists that are gone.
    spares: Vec<VecDeque<Number>>,
}

#[derive(Clone, Debug)]
struct List {
    first: i64,
    numbers: VecDeque<Number>,
}

/// Event time and id: the order in which values go.
type Key<'k, V> = (i64, <V as Keyed>::Id<'k>);

fn key<V: Keyed>(values: &V, number: Number) -> Key<'_, V> {
    (values.time(number), values.id(number))
}

/// How a value stands to a key; its id is read only where times are equal.
fn compare<'k, V: Keyed>(values: &'k V, number: Number, (time, id): Key<'k, V>) -> Ordering {
    values.time(number).cmp(&time).then_with(|| values.id(number).cmp(&id))
}

impl Order {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The number of a key, if it is there.
    pub(crate) fn get<'k, V: Keyed>(&self, key: Key<'k, V>, values: &'k V) -> Option<Number> {
        let (place, at) = self.find(key, values)?;
        let number = *self.lists[place].numbers.get(at)?;
        (compare(values, number, key) == Ordering::Equal).then_some(number)
    }

    /// Time and number of the first.
    pub(crate) fn first(&self) -> Option<(i64, Number)> {
        self.lists.front().map(|list| (list.first, list.numbers[0]))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Number> {
        self.lists.iter().flat_map(|list| list.numbers.iter().copied())
    }

    pub(crate) fn insert<V: Keyed>(&mut self, number: Number, values: &V) {
        self.len += 1;
        let key = key(values, number);
        let first = key.0;
        let is_last = |list: &List| compare(values, list.numbers[list.numbers.len() - 1], key) == Ordering::Less;
        let last = self.lists.back_mut();
        if let Some(list) = last.filter(|list| is_last(list)) {
            if list.numbers.len() < LIST_MAX {
                list.numbers.push_back(number);
            } else {
                let list = self.list(first, number);
                self.lists.push_back(list);
            }
            return;
        }
        let Some((place, at)) = self.find(key, values) else {
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
            self.put_before(place + 1, List { first: values.time(numbers[0]), numbers });
        }
    }

    /// A list of one number.
    fn list(&mut self, first: i64, number: Number) -> List {
        let mut numbers = self.spares.pop().unwrap_or_default();
        numbers.push_back(number);
        List { first, numbers }
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
        if let Some(list) = self.lists.get_mut(place).filter(|list| list.numbers.len() < LIST_MAX) {
            list.numbers.push_front(number);
            list.first = time;
            return;
        }
        let list = self.list(time, number);
        self.lists.insert(place, list);
    }

    /// Takes out a number that is there.
    pub(crate) fn remove<V: Keyed>(&mut self, number: Number, values: &V) {
        let (place, at) = self.find(key(values, number), values).expect("only what is there is taken out");
        debug_assert_eq!(self.lists[place].numbers.get(at), Some(&number), "keys are distinct");
        self.remove_at(place, at, values);
    }

    /// Takes out the first.
    pub(crate) fn pop_first<V: Keyed>(&mut self, values: &V) -> Option<Number> {
        let (_, number) = self.first()?;
        self.remove_at(0, 0, values);
        Some(number)
    }

    fn remove_at<V: Keyed>(&mut self, place: usize, at: usize, values: &V) {
        self.len -= 1;
        let list = &mut self.lists[place];
        list.numbers.remove(at);
        match list.numbers.front() {
            None => {
                let gone = self.lists.remove(place);
                self.spares.extend(gone.map(|list| list.numbers).filter(|_| self.spares.len() < SPARES_MAX));
            }
            Some(&first) if at == 0 => list.first = values.time(first),
            Some(_) => {}
        }
    }

    /// The list that a key belongs into, and its place there; `None` if it is before the first of all.
    fn find<'k, V: Keyed>(&self, key: Key<'k, V>, values: &'k V) -> Option<(usize, usize)> {
        let begins_at_most_at = |list: &List| match list.first.cmp(&key.0) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => compare(values, list.numbers[0], key) != Ordering::Greater,
        };
        let place = self.lists.partition_point(begins_at_most_at).checked_sub(1)?;
        let at = self.lists[place].numbers.partition_point(|&number| compare(values, number, key) == Ordering::Less);
        Some((place, at))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Values = Slots<(i64, u32)>;
    type Expected = BTreeMap<(i64, u32), Number>;

    impl Keyed for Values {
        type Id<'k> = u32;

        fn time(&self, number: Number) -> i64 {
            self.get(number).0
        }

        fn id(&self, number: Number) -> u32 {
            self.get(number).1
        }
    }

    fn insert(order: &mut Order, values: &mut Values, expected: &mut Expected, time: i64, id: u32) {
        assert_eq!(order.get((time, id), values), expected.get(&(time, id)).copied());
        if expected.contains_key(&(time, id)) {
            return;
        }
        let number = values.insert((time, id));
        order.insert(number, values);
        expected.insert((time, id), number);
    }

    fn check(order: &Order, values: &Values, expected: &Expected) {
        assert!(order.iter().eq(expected.values().copied()));
        assert_eq!(order.len(), expected.len());
        assert_eq!(order.first(), expected.first_key_value().map(|(key, number)| (key.0, *number)));
        for list in &order.lists {
            assert!(!list.numbers.is_empty() && list.numbers.len() <= LIST_MAX);
            assert_eq!(list.first, values.time(list.numbers[0]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn numbers_are_in_the_order_of_time_and_id(
            calls in vec((0_u8..5, 0_i64..40, 0_u16..300, any::<prop::sample::Index>()), 1..3000),
            at_a_time in 1_usize..40,
        ) {
            let (mut order, mut values, mut expected) = (Order::default(), Values::default(), Expected::new());
            for (place, (call, time, id, which)) in calls.into_iter().enumerate() {
                match call {
                    0 if !expected.is_empty() => {
                        let key = *which.get(&expected.keys().copied().collect::<Vec<_>>());
                        let number = expected.remove(&key).expect("it is there");
                        order.remove(number, &values);
                        values.remove(number);
                    }
                    1 => {
                        let popped = order.pop_first(&values);
                        prop_assert_eq!(popped, expected.pop_first().map(|(_, number)| number));
                        if let Some(number) = popped {
                            values.remove(number);
                        }
                    }
                    _ => insert(&mut order, &mut values, &mut expected, time, id.into()),
                }
                if place.is_multiple_of(100 * at_a_time) {
                    check(&order, &values, &expected);
                }
            }
            check(&order, &values, &expected);
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
            let (mut order, mut values, mut expected) = (Order::default(), Values::default(), Expected::new());
            for at in 0..20_000 {
                insert(&mut order, &mut values, &mut expected, time(at), at as u32);
            }
            check(&order, &values, &expected);
            let lists = order.lists.len();
            assert!(lists < 2 * 20_000 / LIST_MAX, "way {way}: {lists} lists");
        }
    }
}
