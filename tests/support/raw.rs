//! Kernel: records as no wrapper would write them, with header keys that are not UTF-8. All `unsafe` of the tests is here.

use std::ffi::{CString, c_int};
use std::ptr;

use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::RDKafkaRespErr;

/// A record of which every part may be any bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Raw {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    /// In milliseconds since 1970; 0 is the time of sending.
    pub(crate) timestamp: i64,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// Hands a record to a producer, which has copied all of it when this returns.
pub(super) fn produce<C: ClientContext>(client: &Client<C>, topic: &str, partition: i32, record: &Raw) {
    use native::rd_kafka_vtype_t as kind;
    use native::rd_kafka_vu_s__bindgen_ty_1 as Part;
    let topic = CString::new(topic).expect("a topic's name has no zero byte");
    let bytes = |bytes: &Option<Vec<u8>>| native::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
        ptr: bytes.as_ref().map_or(ptr::null_mut(), |bytes| bytes.as_ptr().cast_mut().cast()),
        size: bytes.as_ref().map_or(0, Vec::len),
    };
    let parts = [
        (kind::RD_KAFKA_VTYPE_TOPIC, Part { cstr: topic.as_ptr() }),
        (kind::RD_KAFKA_VTYPE_PARTITION, Part { i32_: partition }),
        (kind::RD_KAFKA_VTYPE_MSGFLAGS, Part { i: native::RD_KAFKA_MSG_F_COPY as c_int }),
        (kind::RD_KAFKA_VTYPE_KEY, Part { mem: bytes(&record.key) }),
        (kind::RD_KAFKA_VTYPE_VALUE, Part { mem: bytes(&record.payload) }),
        (kind::RD_KAFKA_VTYPE_TIMESTAMP, Part { i64_: record.timestamp }),
        (kind::RD_KAFKA_VTYPE_HEADERS, Part { headers: headers(&record.headers) }),
    ];
    let parts = parts.map(|(vtype, u)| native::rd_kafka_vu_t { vtype, u });
    // SAFETY: the client is alive; each part is of the type that its tag says, and what it points to lives until the call
    // returns. Key and value are copied, and the headers go over to the library, unless it refuses, which ends the test.
    let error = unsafe { native::rd_kafka_produceva(client.native_ptr(), parts.as_ptr(), parts.len()) };
    assert!(error.is_null(), "the producer's queue has room");
}

/// A list of headers of the library's own.
fn headers(list: &[(Vec<u8>, Option<Vec<u8>>)]) -> *mut native::rd_kafka_headers_t {
    // SAFETY: it takes no pointer.
    let headers = unsafe { native::rd_kafka_headers_new(list.len()) };
    for (key, value) in list {
        let (start, length) = value.as_ref().map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
        // SAFETY: the list is the library's own, and both byte strings are as long as is said; they are copied.
        let result = unsafe {
            native::rd_kafka_header_add(
                headers,
                key.as_ptr().cast(),
                key.len().cast_signed(),
                start.cast(),
                length.cast_signed(),
            )
        };
        assert_eq!(result, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    headers
}
