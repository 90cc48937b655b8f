//! Kernel: the headers of a record. The client library's Rust wrapper panics at a header whose key is not UTF-8, which any
//! producer can write; so they are read from the library itself. All `unsafe` of it is here.

use std::borrow::Cow;
use std::ffi::CStr;
use std::ptr;
use std::slice;

use rdkafka::bindings as native;
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;

/// A header: its key, with U+FFFD for what is not UTF-8, and its value.
pub(crate) type Header<'m> = (Cow<'m, str>, Option<&'m [u8]>);

/// The headers of a record, in order; none where the library cannot make them out. A key ends at its first zero byte.
pub(crate) fn of<'m>(message: &'m BorrowedMessage<'_>) -> Vec<Header<'m>> {
    let mut headers = ptr::null_mut();
    // SAFETY: the message is alive for as long as it is borrowed. Its headers are parsed when first asked for, by one
    // thread: the message is neither shared nor sent here.
    let result = unsafe { native::rd_kafka_message_headers(message.ptr(), &raw mut headers) };
    if result != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
        return Vec::new();
    }
    // SAFETY: not null, and owned by the message.
    let count = unsafe { native::rd_kafka_header_cnt(headers) };
    (0..count).filter_map(|index| header(headers, index)).collect()
}

/// One header. The lifetime is that of the message, which owns the headers and what they point to.
fn header<'m>(headers: *const native::rd_kafka_headers_t, index: usize) -> Option<Header<'m>> {
    let (mut key, mut value, mut size) = (ptr::null(), ptr::null(), 0);
    // SAFETY: `headers` is not null and belongs to a message that is alive; an index beyond the last gives an error.
    let result =
        unsafe { native::rd_kafka_header_get_all(headers, index, &raw mut key, &raw mut value, &raw mut size) };
    if result != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || key.is_null() {
        return None;
    }
    // SAFETY: the library ends every key with a zero byte, and keeps it as long as the message.
    let key = unsafe { CStr::from_ptr(key) };
    // SAFETY: the value is null, or has `size` bytes that the library keeps as long as the message.
    let value = (!value.is_null()).then(|| unsafe { slice::from_raw_parts(value.cast::<u8>(), size) });
    Some((key.to_string_lossy(), value))
}
