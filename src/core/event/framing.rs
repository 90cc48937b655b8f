//! What serializers put before a value: the frames of schema registries. JSON behind Confluent's is read; of everything else
//! that is recognised it is said what it is, which schema it has, and what to do.

use std::fmt::Write as _;

use super::{Reason, Refusal};

/// Bytes before a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    /// A zero byte and a schema id of four bytes (Confluent, Apicurio since 3.0, Karapace, Redpanda).
    Confluent(u32),
    /// A zero byte and an id of eight bytes (Apicurio before 3.0).
    Apicurio(u64),
    /// A version byte of 3, one of compression, and the id of a schema version (AWS Glue).
    Glue([u8; 16]),
    /// The marker of Avro's single-object encoding and the fingerprint of a schema.
    AvroObject(u64),
}

/// Headers in which serializers send the id that others put before the value.
const ID_HEADERS: [&str; 5] = [
    "__value_schema_id",
    "apicurio.value.globalId",
    "apicurio.value.contentId",
    "apicurio.value.contentHash",
    "apicurio.value.artifactId",
];

/// What is to be done about a value that is not JSON.
const ADVICE: &str = "only JSON is read: produce it with a JSON serializer, or have the topic converted to JSON";

/// The JSON document of a value. One that is not framed is the document, whatever it is.
///
/// # Errors
/// When the value has a frame with something else than a JSON object behind it.
pub(super) fn document<'p>(payload: &'p [u8], headers: &[(&str, Option<&[u8]>)]) -> Result<&'p [u8], Refusal> {
    let unsupported = |detail: String| Err(Refusal::new(Reason::UnsupportedFraming, format!("{detail}; {ADVICE}")));
    match frame(payload) {
        None if is_object(payload) => Ok(payload),
        None => match id_header(headers) {
            Some((name, id)) => unsupported(format!("no JSON object, and header {name} names the schema {id}")),
            None => Ok(payload),
        },
        Some((Frame::Confluent(_), document)) if is_object(document) => Ok(document),
        Some((Frame::Confluent(id), _)) => {
            unsupported(format!("framed with schema id {id} (Confluent wire format), and no JSON object follows"))
        }
        Some((Frame::Apicurio(id), _)) => unsupported(format!(
            "framed with the eight-byte schema id {id} (Apicurio Registry; ids of four bytes are read if JSON follows)"
        )),
        Some((Frame::Glue(id), _)) => {
            unsupported(format!("framed with schema version id {} (AWS Glue Schema Registry)", uuid(&id)))
        }
        Some((Frame::AvroObject(fingerprint), _)) => {
            unsupported(format!("Avro's single-object encoding, with schema fingerprint {fingerprint:016x}"))
        }
    }
}

/// The JSON document of a value that could be decoded: what is behind its frame, if it has one.
pub fn unframe(payload: &[u8]) -> &[u8] {
    document(payload, &[]).unwrap_or(payload)
}

fn frame(payload: &[u8]) -> Option<(Frame, &[u8])> {
    match payload {
        // No id of four bytes is 0: it is the upper half of one of eight.
        [0, 0, 0, 0, 0, rest @ ..] if rest.len() >= 4 && !is_object(rest) => {
            let (id, document) = rest.split_first_chunk::<4>()?;
            Some((Frame::Apicurio(u64::from(u32::from_be_bytes(*id))), document))
        }
        [0, a, b, c, d, document @ ..] => Some((Frame::Confluent(u32::from_be_bytes([*a, *b, *c, *d])), document)),
        [3, 0 | 5, rest @ ..] => {
            let (id, document) = rest.split_first_chunk::<16>()?;
            Some((Frame::Glue(*id), document))
        }
        [0xc3, 0x01, rest @ ..] => {
            let (id, document) = rest.split_first_chunk::<8>()?;
            Some((Frame::AvroObject(u64::from_le_bytes(*id)), document))
        }
        _ => None,
    }
}

fn is_object(document: &[u8]) -> bool {
    document.trim_ascii_start().first() == Some(&b'{')
}

/// The first header that says which schema the value has, and what it says.
fn id_header<'h>(headers: &[(&'h str, Option<&[u8]>)]) -> Option<(&'h str, String)> {
    let (name, value) = headers.iter().find(|(name, _)| ID_HEADERS.contains(name))?;
    let value = value.unwrap_or_default();
    let id = match value {
        [0 | 1, id @ ..] if id.len() == 16 => uuid(id),
        [0, id @ ..] if id.len() == 4 => u32::from_be_bytes([id[0], id[1], id[2], id[3]]).to_string(),
        _ => match (<[u8; 8]>::try_from(value), std::str::from_utf8(value)) {
            (Ok(id), _) => u64::from_be_bytes(id).to_string(),
            (Err(_), Ok(text)) => text.to_owned(),
            (Err(_), Err(_)) => "with an id of unknown form".to_owned(),
        },
    };
    Some((name, id))
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        write!(text, "{dash}{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(frame: &[u8], document: &[u8]) -> Vec<u8> {
        [frame, document].concat()
    }

    #[test]
    fn json_behind_a_frame_of_four_bytes_is_read_whatever_its_id() {
        // 123 is the code of an opening brace.
        for id in [0_u32, 1, 123, 0x7b7b_7b7b, u32::MAX] {
            let value = framed(&[&[0], &id.to_be_bytes()[..]].concat(), b" {\"a\":1}");
            assert_eq!(document(&value, &[]), Ok(&b" {\"a\":1}"[..]), "{id}");
            assert_eq!(unframe(&value), b" {\"a\":1}", "{id}");
        }
        assert_eq!(document(b"[1]", &[]), Ok(&b"[1]"[..]));
    }

    #[test]
    fn what_is_framed_and_not_json_is_refused_with_its_schema_id() {
        let glue = [&[3, 0][..], &[0xab; 16]].concat();
        let cases: [(Vec<u8>, &str); 6] = [
            (framed(&[0, 0, 0, 1, 200], &[6, b'b', b'a', b'd']), "schema id 456 "),
            (framed(&[0, 0, 0, 0, 123], &[0, 10, 3, b'a', b'b', b'c']), "schema id 123 "),
            (framed(&[0, 0, 0, 0, 0, 0, 0, 0, 9], b"{}"), "eight-byte schema id 9 "),
            (framed(&glue, b"{}"), "version id abababab-abab-abab-abab-abababababab "),
            (framed(&[3, 5], &[1; 20]), "Glue"),
            (framed(&[0xc3, 0x01], &[1, 0, 0, 0, 0, 0, 0, 0, 6]), "fingerprint 0000000000000001"),
        ];
        for (value, says) in cases {
            let refusal = document(&value, &[]).expect_err("it is not read");
            assert_eq!(refusal.reason, Reason::UnsupportedFraming);
            assert!(refusal.detail().contains(says) && refusal.detail().contains("only JSON is read"), "{refusal}");
        }
    }

    #[test]
    fn an_id_in_a_header_is_named_where_the_value_is_not_json() {
        let guid = [&[1][..], &[0x11; 16]].concat();
        let headers = [("trace", None), ("__value_schema_id", Some(&guid[..]))];
        let refusal = document(b"\x06bad", &headers).expect_err("it is not read");
        assert!(refusal.detail().contains("11111111-1111-1111-1111-111111111111"), "{refusal}");
        let headers = [("apicurio.value.globalId", Some(&7_u64.to_be_bytes()[..]))];
        assert!(document(b"\x06bad", &headers).expect_err("it is not read").detail().contains("the schema 7;"));
        // A JSON serializer sends such headers too.
        assert_eq!(document(b"{}", &headers), Ok(&b"{}"[..]));
    }
}
