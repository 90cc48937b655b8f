//! What a scalar of an event says: the one table that the encoder, `config init` and the schema's test go by.
//!
//! A category is a name, and every text but the empty one can be a name ("NA" is Namibia, "-" a blank referrer): it has
//! weights of its own. A number is a quantity, and producers that have none write one of a few texts, or put its digits
//! into a string.

use Meaning::{Category, NoValue, Number, Refused};

/// The texts that stand for no number, in any mix of capitals.
pub const MISSING: [&str; 6] = ["", "NA", "N/A", "NaN", "null", "-"];

/// What a text says where a number is expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NumberText {
    /// That there is none.
    Missing,
    /// This finite number.
    Number(f64),
    /// Nothing that a number is.
    Other,
}

/// Reads a text where a number is expected: one of [`MISSING`], or a decimal number, with or without sign, fraction and
/// exponent. Blanks, thousands separators, infinities and numbers beyond a double are no numbers.
pub fn number_text(text: &str) -> NumberText {
    if is_missing(text) {
        return NumberText::Missing;
    }
    let is_decimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    let parsed = if is_decimal { text.parse::<f64>().ok() } else { None };
    parsed.filter(|number| number.is_finite()).map_or(NumberText::Other, NumberText::Number)
}

/// Whether a text stands for no number.
pub fn is_missing(text: &str) -> bool {
    MISSING.iter().any(|missing| missing.eq_ignore_ascii_case(text))
}

/// What a scalar means to a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    /// It is as if the field were missing.
    NoValue,
    /// A category of this name.
    Category(&'static str),
    /// A quantity.
    Number(f64),
    /// The impression is refused.
    Refused,
}

/// A scalar, and what it means to fields of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The scalar, as JSON.
    pub json: &'static str,
    /// Its meaning to a categorical field, and as an element of a multi-valued one.
    pub category: Meaning,
    /// Its meaning to a numeric field.
    pub number: Meaning,
}

const fn row(json: &'static str, category: Meaning, number: Meaning) -> Row {
    Row { json, category, number }
}

/// The table: a row for each form of a scalar.
pub const TABLE: &[Row] = &[
    row("null", NoValue, NoValue),
    row("\"\"", NoValue, NoValue),
    row("\"NA\"", Category("NA"), NoValue),
    row("\"na\"", Category("na"), NoValue),
    row("\"N/A\"", Category("N/A"), NoValue),
    row("\"n/a\"", Category("n/a"), NoValue),
    row("\"NaN\"", Category("NaN"), NoValue),
    row("\"nan\"", Category("nan"), NoValue),
    row("\"null\"", Category("null"), NoValue),
    row("\"NULL\"", Category("NULL"), NoValue),
    row("\"-\"", Category("-"), NoValue),
    row("0", Category("0"), Number(0.0)),
    row("12.50", Category("12.5"), Number(12.5)),
    row("1e3", Category("1000"), Number(1000.0)),
    row("\"12\"", Category("12"), Number(12.0)),
    row("\"12.50\"", Category("12.50"), Number(12.5)),
    row("\"-3\"", Category("-3"), Number(-3.0)),
    row("\"+3\"", Category("+3"), Number(3.0)),
    row("\"007\"", Category("007"), Number(7.0)),
    row("\".5\"", Category(".5"), Number(0.5)),
    row("\"5.\"", Category("5."), Number(5.0)),
    row("\"1E3\"", Category("1E3"), Number(1000.0)),
    row("\" 12\"", Category(" 12"), Refused),
    row("\"1,000\"", Category("1,000"), Refused),
    row("\"12 EUR\"", Category("12 EUR"), Refused),
    row("\"0x10\"", Category("0x10"), Refused),
    row("\"1_000\"", Category("1_000"), Refused),
    row("\".\"", Category("."), Refused),
    row("\"--\"", Category("--"), Refused),
    row("\"Infinity\"", Category("Infinity"), Refused),
    row("\"true\"", Category("true"), Refused),
    row("true", Category("true"), Refused),
    row("false", Category("false"), Refused),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_the_table_says() {
        for Row { json, number, .. } in TABLE {
            let Ok(text) = serde_json::from_str::<String>(json) else { continue };
            let expected = match number {
                NoValue => NumberText::Missing,
                Number(number) => NumberText::Number(*number),
                Refused | Category(_) => NumberText::Other,
            };
            assert_eq!(number_text(&text), expected, "{json}");
        }
    }

    #[test]
    fn every_spelling_of_a_missing_number_stands_in_the_table() {
        for missing in MISSING {
            let json = serde_json::to_string(missing).expect("a text is JSON");
            assert!(TABLE.iter().any(|row| row.json == json && row.number == NoValue), "{json}");
        }
    }

    #[test]
    fn a_number_beyond_a_double_is_none() {
        assert_eq!(number_text("1e999"), NumberText::Other);
        assert_eq!(number_text("1e-999"), NumberText::Number(0.0));
    }
}
