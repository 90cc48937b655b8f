//! What is around an event's JSON: `CloudEvents` headers (binary content mode). Frames are in `framing`.

use super::{Reason, Refusal};

/// A record as it was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawRecord<'a> {
    /// Its value.
    pub payload: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Its Kafka timestamp in milliseconds; files have none.
    pub timestamp: Option<i64>,
}

/// What the headers of a `CloudEvent` say, for what the body leaves out.
#[derive(Debug, Default)]
pub(super) struct CloudEvent {
    /// `source#id`, which the specification makes unique.
    pub(super) event_id: Option<String>,
    /// RFC 3339.
    pub(super) time: Option<String>,
}

/// Reads the headers.
pub(super) fn cloud_event(headers: &[(&str, Option<&[u8]>)]) -> Result<CloudEvent, Refusal> {
    if headers.is_empty() {
        return Ok(CloudEvent::default());
    }
    let text = |name: &str| {
        let header = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.1?).ok()
    };
    if let Some(kind) = text("content-type")
        && ["avro", "protobuf"].iter().any(|foreign| kind.to_ascii_lowercase().contains(foreign))
    {
        return Err(Refusal::new(Reason::UnsupportedFraming, format!("content-type is {kind}, only JSON is read")));
    }
    if text("ce_specversion").is_none() {
        return Ok(CloudEvent::default());
    }
    let event_id = text("ce_id").map(|id| format!("{}#{id}", text("ce_source").unwrap_or_default()));
    Ok(CloudEvent { event_id, time: text("ce_time").map(str::to_owned) })
}
