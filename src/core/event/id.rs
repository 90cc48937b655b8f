//! The ids of events, held in place: they come and go with every record, and most are no longer than a UUID with a letter before it.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// Bytes of the longest id that takes nothing of the heap.
const SHORT: usize = 38;

/// The id of an impression or of an event. One of more than 38 bytes is on the heap, and its copies share it.
#[derive(Clone)]
pub struct Id(Form);

#[derive(Clone)]
enum Form {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Arc<str>),
}

impl Id {
    /// The id as a text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Form::Short { .. } => str::from_utf8(self.as_bytes()).expect("it was made of a text"),
            Form::Long(text) => text,
        }
    }

    /// The text's bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Form::Short { length, bytes } => &bytes[..usize::from(*length)],
            Form::Long(text) => text.as_bytes(),
        }
    }
}

impl From<&str> for Id {
    fn from(text: &str) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text.as_bytes());
                Self(Form::Short { length: text.len() as u8, bytes })
            }
            None => Self(Form::Long(text.into())),
        }
    }
}

impl From<String> for Id {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<i64> for Id {
    /// The digits of a number.
    fn from(value: i64) -> Self {
        let (mut bytes, mut at, mut left) = ([0; 20], 20, value.unsigned_abs());
        loop {
            at -= 1;
            bytes[at] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if value < 0 {
            at -= 1;
            bytes[at] = b'-';
        }
        str::from_utf8(&bytes[at..]).expect("digits are a text").into()
    }
}

impl Deref for Id {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Id {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Id {}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Id {
    /// As texts are ordered: by their bytes.
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                Ok(text.into())
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_is_its_text_whatever_its_length(text in ".{0,60}", other in ".{0,60}") {
            let (id, another) = (Id::from(text.as_str()), Id::from(other.as_str()));
            prop_assert_eq!((id.as_str(), id.as_bytes()), (text.as_str(), text.as_bytes()));
            prop_assert_eq!(id.cmp(&another), text.cmp(&other));
            prop_assert_eq!(id == another, text == other);
            let written = postcard::to_stdvec(&id).expect("texts have a form");
            prop_assert_eq!(&written, &postcard::to_stdvec(&text).expect("texts have a form"));
            prop_assert_eq!(postcard::from_bytes::<Id>(&written), Ok(id));
        }

        #[test]
        fn a_number_is_its_digits(value: i64) {
            let (id, digits) = (Id::from(value), value.to_string());
            prop_assert_eq!(id.as_str(), digits);
        }
    }

    #[test]
    fn ids_at_the_bound_and_the_last_numbers_are_as_they_are() {
        for length in [0, 1, SHORT - 1, SHORT, SHORT + 1, 256] {
            let text = "x".repeat(length);
            let id = Id::from(text.clone());
            assert_eq!(matches!(id.0, Form::Short { .. }), length <= SHORT);
            assert_eq!(id.clone().as_str(), text);
        }
        for value in [i64::MIN, -1, 0, 9, 10, i64::MAX] {
            assert_eq!(Id::from(value).as_str(), value.to_string());
        }
        assert_eq!(size_of::<Option<Id>>(), 40, "five words, with nothing lost to the tags");
    }
}
