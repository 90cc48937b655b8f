//! Kernel: the ids of topics, and what this client may do with them. A topic that is deleted and made again has its name and
//! another id; the client library knows them, its Rust wrapper does not pass them on. All `unsafe` of the crate's Kafka side
//! is here.

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

/// What a user can do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
}

impl Operation {
    /// Its name in Kafka's own tools.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
        }
    }

    fn of(native: native::rd_kafka_AclOperation_t) -> Option<Self> {
        match native {
            native::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ => Some(Self::Read),
            native::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE => Some(Self::Write),
            _ => None,
        }
    }
}

/// The ids of topics, in the text form of Kafka's own tools; a topic that is missing, or whose broker is too old to have
/// ids, has none.
pub(super) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    patience: Duration,
) -> Result<BTreeMap<String, String>, KafkaError> {
    describe(client, topics, patience, Asking::Ids, id_of)
}

/// What this client's user may do with topics. A topic that is missing, or whose broker does not tell, is absent.
pub(super) fn operations<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    patience: Duration,
) -> Result<BTreeMap<String, Vec<Operation>>, KafkaError> {
    describe(client, topics, patience, Asking::Operations, operations_of)
}

/// What is asked of topics beside their partitions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    Ids,
    Operations,
}

/// Asks for descriptions of topics, and reads something off each that the broker could describe.
fn describe<C: ClientContext, T>(
    client: &Client<C>,
    topics: &[&str],
    patience: Duration,
    asking: Asking,
    read: impl Fn(*const native::rd_kafka_TopicDescription_t) -> Option<T>,
) -> Result<BTreeMap<String, T>, KafkaError> {
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
        if asking == Asking::Operations {
            // The error is null, or an object that is ours.
            let error = native::rd_kafka_AdminOptions_set_include_authorized_operations(options.as_ptr(), 1);
            drop(Owned::new(error, native::rd_kafka_error_destroy));
        }
        native::rd_kafka_DescribeTopics(client, asked.as_ptr(), options.as_ptr(), queue.as_ptr());
        let event = native::rd_kafka_queue_poll(queue.as_ptr(), milliseconds.saturating_add(1000));
        Owned::new(event, native::rd_kafka_event_destroy).ok_or_else(|| failed(RDKafkaErrorCode::OperationTimedOut))?
    };
    // SAFETY: the event is not null and ours.
    match unsafe { native::rd_kafka_event_error(event.as_ptr()) } {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(described(&event, read)),
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE => Ok(BTreeMap::new()),
        error => Err(failed(error.into())),
    }
}

fn described<T>(
    event: &Owned<native::rd_kafka_event_t>,
    read: impl Fn(*const native::rd_kafka_TopicDescription_t) -> Option<T>,
) -> BTreeMap<String, T> {
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
    // SAFETY: the name is a terminated string inside the description; the error may be null, for which the library answers
    // that there is none.
    let named = |topic: &*const native::rd_kafka_TopicDescription_t| unsafe {
        let error = native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(*topic));
        let is_there = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
        let name = || CStr::from_ptr(native::rd_kafka_TopicDescription_name(*topic)).to_string_lossy().into_owned();
        is_there.then(|| read(*topic)).flatten().map(|value| (name(), value))
    };
    found.iter().filter_map(named).collect()
}

/// The id of a topic, if its broker gives one.
fn id_of(topic: *const native::rd_kafka_TopicDescription_t) -> Option<String> {
    // SAFETY: the description is not null and outlives the call; the id is a part of it, null or all zeros where there is
    // none, and so is its text, which may be null.
    unsafe {
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        if id.is_null() {
            return None;
        }
        let bits = native::rd_kafka_Uuid_most_significant_bits(id) | native::rd_kafka_Uuid_least_significant_bits(id);
        let text = native::rd_kafka_Uuid_base64str(id);
        (bits != 0 && !text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// What may be done with a topic, if its broker tells.
fn operations_of(topic: *const native::rd_kafka_TopicDescription_t) -> Option<Vec<Operation>> {
    // SAFETY: the description is not null and outlives the call; the array is a part of it, null where the broker does not
    // tell, and has `count` values of the library's own enumeration.
    let operations = unsafe {
        let mut count = 0;
        let operations = native::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count);
        if operations.is_null() {
            return None;
        }
        std::slice::from_raw_parts(operations, count)
    };
    Some(operations.iter().filter_map(|native| Operation::of(*native)).collect())
}
