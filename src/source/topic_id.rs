//! Kernel: the ids of topics. A topic that is deleted and made again has its name and another id; the client library knows
//! them, its Rust wrapper does not pass them on. All `unsafe` of the crate's Kafka side is here.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::client::Client;
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

/// A native object that is destroyed with its owner.
struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// `None` for null. The pointer must be owned by the caller, and `destroy` be its destructor.
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        NonNull::new(pointer).map(|pointer| Self { pointer, destroy })
    }

    fn as_ptr(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is owned and not null, and this is its destructor, called once.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

/// The ids of topics, in the text form of Kafka's own tools; a topic that is missing, or whose broker is too old to have
/// ids, has none.
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    patience: Duration,
) -> Result<BTreeMap<String, String>, KafkaError> {
    let failed = |code| KafkaError::AdminOp(code);
    let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    let client = client.native_ptr();
    // SAFETY: `client` lives as long as the borrow of it; names are terminated and outlive the calls, which copy them;
    // the option's error text may be null with length 0. Each object is owned here and destroyed once; an event that
    // was taken from a queue does not need it any more.
    let event = unsafe {
        let queue = Owned::new(native::rd_kafka_queue_new(client), native::rd_kafka_queue_destroy);
        let asked = native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let asked = Owned::new(asked, native::rd_kafka_TopicCollection_destroy);
        let options =
            native::rd_kafka_AdminOptions_new(client, native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let options = Owned::new(options, native::rd_kafka_AdminOptions_destroy);
        let (Some(queue), Some(asked), Some(options)) = (queue, asked, options) else {
            return Err(failed(RDKafkaErrorCode::CriticalSystemResource));
        };
        native::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), milliseconds, ptr::null_mut(), 0);
        native::rd_kafka_DescribeTopics(client, asked.as_ptr(), options.as_ptr(), queue.as_ptr());
        let event = native::rd_kafka_queue_poll(queue.as_ptr(), milliseconds.saturating_add(1000));
        Owned::new(event, native::rd_kafka_event_destroy).ok_or_else(|| failed(RDKafkaErrorCode::OperationTimedOut))?
    };
    // SAFETY: the event is not null and ours.
    match unsafe { native::rd_kafka_event_error(event.as_ptr()) } {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(described(&event)),
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE => Ok(BTreeMap::new()),
        error => Err(failed(error.into())),
    }
}

fn described(event: &Owned<native::rd_kafka_event_t>) -> BTreeMap<String, String> {
    // SAFETY: the result and everything in it belong to the event, which outlives this function's use of them; an event
    // of another kind gives a null result. The array has `count` pointers that are not null.
    let found = unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        if result.is_null() {
            return BTreeMap::new();
        }
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() { &[] } else { std::slice::from_raw_parts(topics.cast_const(), count) }
    };
    // SAFETY: names and ids are terminated strings inside the descriptions; the error may be null, for which the library
    // answers that there is none. The id of a topic without one is null or all zeros.
    let id = |topic: &*const native::rd_kafka_TopicDescription_t| unsafe {
        let error = native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(*topic));
        let id = native::rd_kafka_TopicDescription_topic_id(*topic);
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || id.is_null() {
            return None;
        }
        let bits = native::rd_kafka_Uuid_most_significant_bits(id) | native::rd_kafka_Uuid_least_significant_bits(id);
        let text = |pointer| CStr::from_ptr(pointer).to_string_lossy().into_owned();
        (bits != 0)
            .then(|| (text(native::rd_kafka_TopicDescription_name(*topic)), text(native::rd_kafka_Uuid_base64str(id))))
    };
    found.iter().filter_map(id).collect()
}
